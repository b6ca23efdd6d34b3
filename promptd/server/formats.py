"""What a request wants replies to look like: OpenAI's `response_format`, Ollama's `format`, as JSON schemas.

https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from promptd.server.body import Body, Text, json_text

ANY_OBJECT = '{"type": "object"}'


class SchemaNamed(Body):
    """A JSON schema that replies keep to, whether or not it is said to be strict."""

    name: Annotated[Text, Field(min_length=1, max_length=64)]
    description: Text | None = None
    body: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """What the reply is to look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaNamed | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("the type 'json_schema' and the field json_schema go together")
        if self.json_schema:
            json_text(self.json_schema.body)
        return self

    def schema_text(self) -> str | None:
        """Return the JSON schema that replies keep to, None where they may be any text."""
        if self.json_schema is not None:
            return json_text(self.json_schema.body)
        return ANY_OBJECT if self.type == "json_object" else None
