"""Classify the texts given as arguments. It needs only Python.

python examples/predict.py "you are all welcome here" "you absolute clown"

TAGGER_URL is the service's address, TAGGER_KEY an API key if the service needs one.
"""

import json
import os
import sys
import urllib.error
import urllib.request

URL = os.environ.get("TAGGER_URL", "http://127.0.0.1:8000")
TEXTS = sys.argv[1:] or ["you are all welcome here"]

headers = {"Content-Type": "application/json"}
if key := os.environ.get("TAGGER_KEY"):
    headers["Authorization"] = f"Bearer {key}"
body = json.dumps({"texts": TEXTS}).encode()
request = urllib.request.Request(f"{URL}/v1/predict", body, headers)
try:
    with urllib.request.urlopen(request, timeout=10) as response:
        reply = json.load(response)
except urllib.error.HTTPError as error:  # every error has this shape
    sys.exit(json.load(error)["error"]["message"])
except urllib.error.URLError as error:
    sys.exit(f"{URL}: {error.reason}; start the service with `make serve`")

for text, prediction in zip(TEXTS, reply["predictions"], strict=True):
    # `label` is the model's decision, `action` what the operator's policy makes of the scores.
    score = prediction["scores"][prediction["label"]]
    print(f"{prediction['label']:9} {score:.3f}  {prediction['action']:6}  {text}")
