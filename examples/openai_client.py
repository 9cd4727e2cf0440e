"""Call Upeti with the official OpenAI client: plain and streamed, tagged with the feature it is for.

Set OPENAI_BASE_URL (http://127.0.0.1:8080/v1) and OPENAI_API_KEY (from `upeti keys create`); the model is the first argument.
"""

import sys

from openai import OpenAI

MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
client = OpenAI()

answer = client.chat.completions.with_raw_response.create(
    model=MODEL,
    messages=[{"role": "user", "content": "Say hello in one sentence."}],
    max_tokens=40,
    extra_headers={"x-upeti-feature": "greeting"},
)
print(answer.parse().choices[0].message.content)
print("cost:", answer.headers["x-upeti-cost"], answer.headers["x-upeti-currency"])

stream = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "Count to five."}],
    max_tokens=40,
    metadata={"feature": "counting"},  # the other way to tag
    stream=True,
)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
print()
