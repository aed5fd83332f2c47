"""Makes the OpenAPI document."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import msgspec

from fractal_rm import __version__
from fractal_rm.web.openapi.actions import action_operations
from fractal_rm.web.openapi.operation import JSON, Answer, Body, Operation
from fractal_rm.web.openapi.parameters import EXAMPLES, IN_PATH, IN_QUERY
from fractal_rm.web.openapi.queries import query_operations
from fractal_rm.web.openapi.triggers import CloudEvent, trigger_operations
from fractal_rm.web.problems import MEDIA_TYPE, ActionProblem, Problem

# Every request may get these: it is not valid, its client is not known, may not do this, or names
# another host, its head is too large, or the node has a fault, or too many connections.
ALWAYS = (400, 401, 403, 408, 421, 431, 500, 503)
CLOUD_EVENT = "application/cloudevents+json"
_REF = "#/components/schemas/{name}"
_RETRY = "Retry-After"
_TEXTS = {
    400: "a parameter, the head or the JSON of the request is not valid",
    401: "the request needs a token, or its token is wrong, revoked or expired",
    403: "the client may not request this: `missing-scope`",
    404: "there is no such run, flow or request",
    408: "the request came too slowly",
    409: "this is not possible now; the problem says how the run is",
    410: "what the action needs is no longer kept",
    412: "`If-Match` does not name the present version",
    413: "the body is too large",
    415: "the content type is not JSON, or the body is compressed",
    421: "`Host` or `Origin` names another machine",
    422: "the body does not have the expected form, or the key was used for another request",
    429: "there are too many requests",
    431: "the head of the request is too large",
    500: "a fault of the program, or a journal that cannot be read",
    503: "this is not possible at the moment",
}
_PARAMETER = re.compile(r"\{(\w+)\}")


def operations(endpoint: str) -> list[Operation]:
    """Every operation. ``endpoint`` is that of `Rest.endpoint`."""
    return [*trigger_operations(endpoint), *query_operations(), *action_operations()]


def openapi_document(endpoint: str) -> dict[str, Any]:
    """The document, as values of JSON."""
    every = operations(endpoint)
    schemas, components = msgspec.json.schema_components(_kinds(every), ref_template=_REF)
    schema_of = dict(zip(map(_key, _kinds(every)), schemas, strict=True))
    paths: dict[str, Any] = {}
    for operation in every:
        item = paths.setdefault(operation.path, {})
        item[operation.method.lower()] = _describe(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FRACTAL Runtime Manager",
            "version": __version__,
            "summary": "Runs flows of HTTP calls on small Linux nodes",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                _problem_name(status, kind): _problem(status, kind, schema_of)
                for kind in (Problem, ActionProblem)
                for status in _TEXTS
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _key(kind: Any) -> str:
    return repr(kind)


def _kinds(every: list[Operation]) -> list[Any]:
    """All types of contents, each once."""
    kinds: list[Any] = [Problem, ActionProblem, CloudEvent]
    for operation in every:
        kinds += [answer.kind for answer in operation.answers if answer.kind is not None]
        kinds += [field.type for field in msgspec.structs.fields(operation.query)]
        if operation.body is not None:
            kinds.append(operation.body.kind)
    return list({_key(kind): kind for kind in kinds}.values())


def _describe(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    scope = operation.scope
    needs = "" if scope is None else f"Needs the scope `{scope.value}`."
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": " ".join(filter(None, (operation.text, needs))),
        "parameters": _parameters(operation, schema_of),
        "responses": _responses(operation, schema_of),
    }
    body = operation.body
    if body is not None:
        content = {"schema": schema_of[_key(body.kind)], "example": body.example}
        described["requestBody"] = {
            "required": body.required,
            "content": {JSON: content, **_event_of(body, schema_of)},
        }
    return {name: value for name, value in described.items() if value not in ("", [])}


def _event_of(body: Body, schema_of: dict[str, Any]) -> dict[str, Any]:
    """The content as a CloudEvent, if it may be one."""
    if body.event is None:
        return {}
    return {CLOUD_EVENT: {"schema": schema_of[_key(CloudEvent)], "example": body.event}}


def _parameters(operation: Operation, schema_of: dict[str, Any]) -> list[dict[str, Any]]:
    described = [
        {
            "name": name, "in": "path", "required": True, "description": IN_PATH[name],
            "schema": {"type": "string", "minLength": 1}, "example": EXAMPLES[name],
        }
        for name in _PARAMETER.findall(operation.path)
    ]  # fmt: skip
    for field in msgspec.structs.fields(operation.query):
        schema = _without_null(schema_of[_key(field.type)])
        parameter = {
            "name": field.encode_name, "in": "query", "required": False,
            "description": IN_QUERY[field.encode_name], "schema": schema,
        }  # fmt: skip
        if schema.get("type") == "array":
            # It may also be repeated.
            parameter |= {"style": "form", "explode": False}
            schema |= {"uniqueItems": True, "minItems": 1}
        described.append(parameter)
    for name, text in operation.headers.items():
        described.append({
            "name": name, "in": "header", "required": False, "description": text,
            "schema": {"type": "string"},
        })  # fmt: skip
    return described


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is given. Its default is described in words."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return dict(kinds[0] if len(kinds) == 1 else schema)


def _responses(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    responses = {str(answer.status): _answer(answer, schema_of) for answer in operation.answers}
    for status in sorted({*ALWAYS, *operation.problems}):
        kind = operation.problem_kind or Problem
        described = responses.get(str(status))
        if described is None:
            name = _problem_name(status, kind)
            responses[str(status)] = {"$ref": f"#/components/responses/{name}"}
        else:  # another content type of the same status
            described["content"].update(_problem(status, kind, schema_of)["content"])
    return responses


def _problem_name(status: int, kind: Any) -> str:
    return f"{kind.__name__}{status}"


def _answer(answer: Answer, schema_of: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.text}
    if answer.kind is not None:
        content: dict[str, Any] = {"schema": schema_of[_key(answer.kind)]}
        if answer.example is not None:
            content["example"] = answer.example
        described["content"] = {answer.media: content}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in answer.headers.items()
        }
    return described


def _problem(status: int, kind: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    example = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status,
        "detail": _TEXTS[status],
    }  # fmt: skip
    content = {"schema": schema_of[_key(kind)], "example": example}
    described: dict[str, Any] = {"description": _TEXTS[status], "content": {MEDIA_TYPE: content}}
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        text = "after how many seconds to try again"
        described["headers"] = {_RETRY: {"description": text, "schema": {"type": "string"}}}
    return described
