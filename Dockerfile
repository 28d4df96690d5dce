ARG BASE_IMAGE=python:3.13-slim
FROM ${BASE_IMAGE}
COPY setup.cfg pyproject.toml README.md /src/
COPY vipmanager /src/vipmanager
RUN pip install --no-cache-dir "/src[nodeport]" \
    && cd / && python -m vipmanager.clients.ec2_model \
    && mkdir /app && printf '#!/bin/sh\nexec vipmanager "$@"\n' > /app/script.sh && chmod +x /app/script.sh \
    && rm -rf /src
ENTRYPOINT ["vipmanager"]
