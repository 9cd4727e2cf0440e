"""Call Upeti with the Anthropic client; it goes to channels of kind `anthropic`.

Set ANTHROPIC_BASE_URL (http://127.0.0.1:8080) and ANTHROPIC_API_KEY (from `upeti keys create`); the model is the first argument.
"""

import sys

from anthropic import Anthropic

client = Anthropic()
with client.messages.stream(
    model=sys.argv[1] if len(sys.argv) > 1 else "claude-sonnet-4-5",
    max_tokens=100,
    messages=[{"role": "user", "content": "Say hello in one sentence."}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
print("usage:", stream.get_final_message().usage.output_tokens, "output tokens")
