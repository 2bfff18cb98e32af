"""`health.py URL [PART]`: ends well where the URL answers 200, and says "healthy" of a part that is named."""

import json
import sys
import urllib.request

url, *parts = sys.argv[1:]
with urllib.request.urlopen(url, timeout=8) as answer:
    body = answer.read()
for part in parts:
    if json.loads(body)[part]["status"] != "healthy":
        sys.exit(f"{url}: {part} is {json.loads(body)[part]['status']}")
