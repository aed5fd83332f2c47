"""Makes an OpenAPI 3.1 description of each component that the exported flows call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from fractal_rm.config.model import Component
from fractal_rm.domain.flow import Method

Document = dict[str, Any]


class Operation(NamedTuple):
    """How Arazzo refers to an operation, and the query parameters in the endpoint's address.

    The parameters are separate, because a path in OpenAPI cannot contain a query.
    """

    reference: str
    query: list[tuple[str, str]]


class Apis:
    """Collects the called operations, in one OpenAPI description for each component."""

    def __init__(self, components: Mapping[str, Component]) -> None:
        self._components = components
        self._names: dict[str, str] = {}  # component -> name of its source description
        self._documents: dict[str, Document] = {}

    def operation(self, component: str, endpoint: str, method: Method) -> Operation:
        """Return an operation, after adding it to the description of its component."""
        source = self._source(component)
        target = self._components[component].endpoints[endpoint].post.target
        path, _, query = target.partition("?")
        paths = self._documents[source]["paths"]
        operations = paths.setdefault(path, {})
        used_ids = [each["operationId"] for item in paths.values() for each in item.values()]
        operation = operations.setdefault(
            method.value.lower(),
            {
                "operationId": unused_name(
                    f"{method.value.lower()}-{to_identifier(endpoint)}", used_ids
                ),
                "description": f"endpoint {endpoint} of {component}",
                "responses": {
                    "2XX": {"description": "success"},
                    "default": {"description": "failure"},
                },
            },
        )
        reference = f"$sourceDescriptions.{source}.{operation['operationId']}"
        return Operation(reference, parse_qsl(query, keep_blank_values=True))

    def sources(self) -> list[Document]:
        """Return the list ``sourceDescriptions`` of the Arazzo document."""
        return [
            {"name": name, "url": f"./{_file_name(name)}", "type": "openapi"}
            for name in self._documents
        ]

    def files(self) -> dict[str, Document]:
        """Return the OpenAPI descriptions by file name."""
        return {_file_name(name): document for name, document in self._documents.items()}

    def _source(self, component: str) -> str:
        name = self._names.get(component)
        if name is None:
            name = self._names[component] = unused_name(to_identifier(component), self._documents)
            component_entry = self._components[component]
            origin = next(iter(component_entry.endpoints.values())).post.origin
            self._documents[name] = {
                "openapi": "3.1.0",
                "info": {
                    "title": component,
                    "description": "from components.conf",
                    "version": "1",
                },
                # An IPv6 zone begins with "%", which must be escaped (RFC 6874, 2).
                "servers": [{"url": str(origin).replace("%", "%25")}],
                "paths": {},
            }
        return name


def to_identifier(name: str) -> str:
    """Replace all characters except letters, digits, ``_`` and ``-``: Arazzo allows only these."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name) or "-"


def unused_name(name: str, used_names: Any) -> str:
    """Return ``name``, or the first unused of ``name-2``, ``name-3``, … if it is used already."""
    candidate, number = name, 1
    while candidate in used_names:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _file_name(source: str) -> str:
    return f"{source}.openapi.json"
