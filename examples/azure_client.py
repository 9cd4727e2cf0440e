"""Call Upeti with the Azure OpenAI client, as if Upeti were the Azure resource.

Set AZURE_OPENAI_ENDPOINT (http://127.0.0.1:8080) and AZURE_OPENAI_API_KEY (from `upeti keys create`). The deployment's name is
looked up as a route; it is the first argument.
"""

import sys

from openai import AzureOpenAI

client = AzureOpenAI(api_version="2024-10-21")
answer = client.chat.completions.create(
    model=sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m",
    messages=[{"role": "user", "content": "Say hello in one sentence."}],
    max_tokens=40,
)
print(answer.choices[0].message.content)
