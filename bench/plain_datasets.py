"""What a good user would write by hand to normalise and split a dataset, and to tokenise it: the yardstick of bench/data.py.

python bench/plain_datasets.py normalise rows.jsonl folder cores
python bench/plain_datasets.py tokenise folder tokenizer cores
"""

import sys

from datasets import load_dataset


def normalise(file: str, folder: str, cores: str) -> None:
    """Prompt and completion to messages, a tenth held out, both written as Parquet."""
    rows = load_dataset("json", data_files=file, split="train", cache_dir=f"{folder}/cache")
    rows = rows.map(
        lambda row: {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        },
        remove_columns=rows.column_names,
        num_proc=int(cores),
    )
    parts = rows.train_test_split(test_size=0.1, seed=42)
    parts["train"].to_parquet(f"{folder}/train.parquet")
    parts["test"].to_parquet(f"{folder}/validation.parquet")


def tokenise(folder: str, tokenizer_folder: str, cores: str) -> None:
    """The chat template's tokens, and a mask that leaves the prompt out."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def encode(row: dict) -> dict:
        ids = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=False)
        return {"input_ids": ids[:1024], "labels": ([-100] * len(prompt) + ids[len(prompt) :])[:1024]}

    files = {"train": f"{folder}/train.parquet", "validation": f"{folder}/validation.parquet"}
    parts = load_dataset("parquet", data_files=files, cache_dir=f"{folder}/cache2")
    for name, part in parts.items():
        encoded = part.map(encode, remove_columns=part.column_names, num_proc=int(cores))
        encoded.to_parquet(f"{folder}/{name}_tokens.parquet")


if __name__ == "__main__":
    {"normalise": normalise, "tokenise": tokenise}[sys.argv[1]](*sys.argv[2:])
