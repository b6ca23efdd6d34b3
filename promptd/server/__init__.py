"""The daemon behind `promptd serve`: graphs and guests over HTTP, in OpenAI's shape and as sessions."""
