"""Ask a server one thing: `python chat.py "Good morning!"`. CHAT_ENDPOINT says which, CHAT_ACCESS_KEY opens it."""

import json
import os
import sys
from urllib.request import Request, urlopen

url = os.environ.get("CHAT_ENDPOINT", "http://127.0.0.1:5000").rstrip("/") + "/chat"
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('CHAT_ACCESS_KEY', 'none')}"}
with urlopen(Request(url, json.dumps({"message": " ".join(sys.argv[1:])}).encode(), headers)) as reply:
    print(json.load(reply)["response"])
