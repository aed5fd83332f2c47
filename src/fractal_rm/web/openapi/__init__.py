"""The description of the HTTP interface as OpenAPI 3.1. It is made when somebody asks for it.

- `operation`: the values that describe one operation.
- `triggers`, `queries`, `actions`: the operations. A test compares them with the routes.
- `document`: makes the document. Schemas come from the types that are encoded and decoded.
"""

from fractal_rm.web.openapi.document import openapi_document

__all__ = ["openapi_document"]
