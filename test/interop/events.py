"""What the client says of itself: one JSON object a line, for whoever runs it."""

from __future__ import annotations

import json
from typing import Any


def say(event: str, **members: Any) -> None:
    print(json.dumps({"event": event, **members}), flush=True)
