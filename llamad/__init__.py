"""llamad: a systemd daemon that keeps llama.cpp servers up behind one OpenAI-compatible port."""

__version__ = "0.1.0"
