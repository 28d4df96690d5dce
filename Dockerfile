# Any image with Python 3.11 or newer and its venv module, on Debian: see docs/image.md.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim

FROM ${BASE_IMAGE} AS dependencies
LABEL vipmanager.stage="build"
COPY image/build.lock image/requirements.lock image/dependencies.sh /src/image/
RUN sh /src/image/dependencies.sh

FROM dependencies AS build
COPY setup.cfg pyproject.toml README.md /src/
COPY vipmanager /src/vipmanager
COPY image /src/image
RUN sh /src/image/build.sh

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=
COPY --from=build /rootfs/ /
COPY --from=build /app /app
COPY --from=build /opt/vipmanager /opt/vipmanager
LABEL org.opencontainers.image.title="vipmanager" \
      org.opencontainers.image.description="Makes an Amazon VPC deliver the floating addresses of Multus pods on EKS" \
      org.opencontainers.image.licenses="MIT-0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/vipmanager/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
USER 65532:65532
ENTRYPOINT ["vipmanager"]
