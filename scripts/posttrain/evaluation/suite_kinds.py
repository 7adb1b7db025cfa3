"""All kinds of suites that read a dataset, and the types of rows that each can measure on."""

SUITE_TYPES = {
    "perplexity": ("text", "messages"),
    "preference": ("preference",),
    "generation": ("messages", "preference"),
    "reward": ("messages", "preference", "prompts"),
}
