"""Use OpenAI's Python client with this service: only `base_url` changes.

python examples/openai_client.py "you absolute clown"

TAGGER_URL is the service's address. The program needs the package openai.
"""

import os
import sys

from openai import OpenAI

URL = os.environ.get("TAGGER_URL", "http://127.0.0.1:8000")
TEXTS = sys.argv[1:] or ["you are all welcome here"]

# The client insists on a key; a service without TAGGER_API_KEYS accepts any.
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("TAGGER_KEY", "none"))
reply = client.moderations.create(input=TEXTS)
for text, result in zip(TEXTS, reply.results, strict=True):
    # Both have a threatening subcategory too; the other nine categories are always 0.
    scores = result.category_scores
    verdict = "flagged" if result.flagged else "ok"
    print(f"{verdict:8} hate {scores.hate:.3f}  harassment {scores.harassment:.3f}  {text}")
