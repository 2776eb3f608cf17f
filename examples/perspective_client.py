"""Use Google's client for Perspective API with this service: only the discovery URL changes.

python examples/perspective_client.py "you absolute clown"

TAGGER_URL is the service's address. The program needs the package google-api-python-client.
"""

import os
import sys

from googleapiclient import discovery

URL = os.environ.get("TAGGER_URL", "http://127.0.0.1:8000")
TEXTS = sys.argv[1:] or ["you are all welcome here"]
ATTRIBUTES = {"TOXICITY": {}, "IDENTITY_ATTACK": {}, "THREAT": {}}

client = discovery.build(
    "commentanalyzer",
    "v1alpha1",
    # A service without TAGGER_API_KEYS accepts any key.
    developerKey=os.environ.get("TAGGER_KEY", "none"),
    discoveryServiceUrl=f"{URL}/$discovery/rest?version=v1alpha1",
    static_discovery=False,
)
with client:
    for text in TEXTS:
        body = {"comment": {"text": text}, "requestedAttributes": ATTRIBUTES}
        scores = client.comments().analyze(body=body).execute()["attributeScores"]
        shown = [f"{name} {scores[name]['summaryScore']['value']:.3f}" for name in ATTRIBUTES]
        print(f"{'  '.join(shown)}  {text}")
