"""The OpenAI port: connections, bytes, queues, and which server answers."""
