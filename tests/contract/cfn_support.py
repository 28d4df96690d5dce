"""CloudFormation templates as data, the functions' code as modules, and Auto Scaling's part in a lifecycle hook."""

from __future__ import annotations

import importlib.util
import io
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import yaml
from botocore.awsrequest import AWSResponse

CFN = Path(__file__).parents[2] / "cfn"


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Sub x` is {"Fn::Sub": x}."""


def _short(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short)


def template(name: str) -> dict[str, Any]:
    """A template of cfn/."""
    return dict(yaml.load((CFN / name).read_text(), _Loader))  # _Loader is a SafeLoader


@dataclass(frozen=True)
class Stack:
    """A template with values for its parameters, and pseudo parameters; resolves what a template computes."""

    body: Mapping[str, Any]
    given: Mapping[str, Any]

    def property(self, resource: str, *path: str) -> Any:
        """A resource's property, resolved."""
        found = self.body["Resources"][resource]["Properties"]
        for key in path:
            found = found[key]
        return self.resolve(found)

    def holds(self, condition: str) -> bool:
        """Whether a condition is true."""
        return bool(self.resolve(self.body["Conditions"][condition]))

    def resolve(self, node: Any) -> Any:
        """The node with every function replaced by its value; of a GetAtt or ValueOf, `given["Name.Attribute"]`."""
        if isinstance(node, list):
            resolved = [self.resolve(each) for each in node]
            return [each for each in resolved if each != "AWS::NoValue"]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (function, argument), *_ = node.items()
            if known := _FUNCTIONS.get(function):
                return known(self, argument)
        return {key: self.resolve(value) for key, value in node.items()}

    def refused(self) -> list[str]:
        """The descriptions of the rules' assertions that fail."""
        rules = [each for each in self.body.get("Rules", {}).values() if self.resolve(each.get("RuleCondition", True))]
        asserted = [each for rule in rules for each in rule["Assertions"]]
        return [each["AssertDescription"] for each in asserted if not self.resolve(each["Assert"])]

    def ref(self, name: str) -> Any:
        """The value of a parameter, or a resource's name; that of a parameter without a value is its own."""
        if name in self.given:
            return self.given[name]
        parameter = self.body["Parameters"].get(name)
        return parameter.get("Default", name) if parameter else name

    def sub(self, argument: Any) -> str:
        """Fn::Sub."""
        text, values = argument if isinstance(argument, list) else (argument, {})
        found = re.sub(r"\$\{([^!}]+)\}", lambda m: str(self._value(m[1], values)), text)
        return found.replace("${!", "${")

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        return self.resolve(values[name]) if name in values else self.ref(name)


_FUNCTIONS: Mapping[str, Callable[[Stack, Any], Any]] = {
    "Ref": lambda stack, name: stack.ref(name),
    "Condition": lambda stack, name: stack.holds(name),
    "Fn::Sub": lambda stack, argument: stack.sub(argument),
    "Fn::If": lambda stack, parts: stack.resolve(parts[1] if stack.holds(parts[0]) else parts[2]),
    "Fn::Join": lambda stack, parts: parts[0].join(map(str, stack.resolve(parts[1]))),
    "Fn::Equals": lambda stack, parts: str(stack.resolve(parts[0])) == str(stack.resolve(parts[1])),
    "Fn::Not": lambda stack, parts: not stack.resolve(parts[0]),
    "Fn::Or": lambda stack, parts: any(map(stack.resolve, parts)),
    "Fn::EachMemberEquals": lambda stack, parts: set(stack.resolve(parts[0])) == {stack.resolve(parts[1])},
    "Fn::EachMemberIn": lambda stack, parts: set(stack.resolve(parts[0])) <= set(stack.resolve(parts[1])),
    "Fn::RefAll": lambda stack, kind: [
        stack.ref(name) for name, each in stack.body["Parameters"].items() if each["Type"] == kind
    ],
    "Fn::ValueOf": lambda stack, parts: stack.given[".".join(parts)],
    "Fn::GetAtt": lambda stack, parts: stack.given.get(".".join(parts), ".".join(parts)),
    "Fn::Base64": lambda stack, text: stack.resolve(text),
}


def module(name: str) -> ModuleType:
    """A function's code, from cfn/lambda/; the SDK's settings must be in the environment by then."""
    spec = importlib.util.spec_from_file_location(f"cfn_{name}", CFN / "lambda" / f"{name}.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@dataclass
class AutoScaling:
    """A group's nodes and the lifecycle actions that they wait for, behind a real client of the SDK.

    moto has no lifecycle states and no CompleteLifecycleAction. Answers: Auto Scaling API reference, and the text of
    "No active Lifecycle Action found", as users quote it. `before` and `after` are called with each call's action; what
    `before` returns is the code of an error that is answered instead.
    """

    states: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)  # node → the token of the action it waits for
    results: list[tuple[str, str]] = field(default_factory=list)  # (node, result)
    before: Callable[[str], str | None] = lambda action: None
    after: Callable[[str], None] = lambda action: None

    def install(self, client: Any) -> None:
        """Answer the client's requests in place of AWS."""
        client.meta.events.register("before-send.autoscaling", self._send)

    def remove(self, client: Any) -> None:
        """Answer no more."""
        client.meta.events.unregister("before-send.autoscaling", self._send)

    def wait(self, node: str, state: str) -> dict[str, Any]:
        """Let the node wait in this state; the `detail` of the event."""
        self.states[node] = state
        self.tokens[node] = str(uuid.uuid4())
        launching = "Pending" in state
        return {
            "LifecycleActionToken": self.tokens[node],
            "AutoScalingGroupName": "nodes-NodeGroupA-1",
            "LifecycleHookName": "nodes-launch" if launching else "nodes-terminate",
            "EC2InstanceId": node,
            "LifecycleTransition": f"autoscaling:EC2_INSTANCE_{'LAUNCHING' if launching else 'TERMINATING'}",
        }

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        form = request.body.decode() if isinstance(request.body, bytes) else request.body
        asked = dict(parse_qsl(form))
        code = self.before(asked["Action"])
        status, body = (400, _error(code, "The call was told to fail.")) if code else self._answer(asked)
        self.after(asked["Action"])
        return AWSResponse(request.url, status, {"Content-Type": "text/xml"}, _Raw(body.encode()))

    def _answer(self, asked: Mapping[str, str]) -> tuple[int, str]:
        action = asked["Action"]
        if action == "DescribeAutoScalingInstances":
            node = asked["InstanceIds.member.1"]
            state = self.states.get(node)
            member = f"<InstanceId>{node}</InstanceId><LifecycleState>{state}</LifecycleState>"
            inner = f"<AutoScalingInstances>{f'<member>{member}</member>' if state else ''}</AutoScalingInstances>"
        else:
            assert action == "CompleteLifecycleAction"
            token, result = asked["LifecycleActionToken"], asked["LifecycleActionResult"]
            node = next((node for node, each in self.tokens.items() if each == token), "")
            if not node:
                return 400, _error("ValidationError", f"No active Lifecycle Action found with token {token}")
            self._complete(node, result)
            inner = ""
        return 200, f"<{action}Response><{action}Result>{inner}</{action}Result></{action}Response>"

    def _complete(self, node: str, result: str) -> None:
        del self.tokens[node]
        self.results.append((node, result))
        if self.states[node].startswith("Terminating"):
            del self.states[node]
        else:
            self.states[node] = "InService" if result == "CONTINUE" else "Terminating:Wait"


def _error(code: str, text: str) -> str:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
    return f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"


class _Raw(io.BytesIO):
    """A body as botocore wants it of urllib3."""

    def stream(self, amt: int = 65536, decode_content: bool | None = None) -> Any:
        """The body in chunks."""
        while chunk := self.read(amt):
            yield chunk
