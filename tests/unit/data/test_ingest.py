"""Planted faults: each is one sentence with its place, and harms neither the good rows nor what was built before."""

import gzip
import io
import json
import os
import re
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from posttrain.data import ingest
from posttrain.data.readers import text
from posttrain.runtime.errors import UserError
from unit.scripts.test_prepare_data import (
    OUTPUT,
    assistant,
    dropped,
    image,
    lines,
    message,
    prepare,
    read,
    system,
    text_lines,
    texts,
    user,
    write,
)

EARLIER = dict.fromkeys(("train.parquet", "validation.parquet", "dropped.jsonl", "data.json"), b"of an earlier run")


@pytest.fixture
def earlier(in_folder):
    """What an earlier run left."""
    for name, content in EARLIER.items():
        write(str(OUTPUT / name), content)


def left() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in OUTPUT.iterdir()}


def refusal(path: str, **keys) -> str:
    """The sentence that a dataset is refused with; what an earlier run left stays as it was."""
    with pytest.raises(UserError) as error:
        prepare(path, **keys)
    assert "\n" not in str(error.value)
    assert left() == EARLIER
    return str(error.value)


# ---- a faulty row: it stops the build, or is left out where that is allowed

GOOD = {
    "text": [{"text": "one"}, {"text": "two"}],
    "messages": [{"messages": [user("q"), assistant("one")]}, {"messages": [user("q"), assistant("two")]}],
    "prompt_completion": [{"prompt": "q", "completion": "one"}, {"prompt": "q", "completion": "two"}],
    "alpaca": [{"instruction": "q", "output": "one"}, {"instruction": "q", "output": "two"}],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]} for answer in "ab"
    ],
    "ultrachat": [{"data": ["q", "one"]}, {"data": ["q", "two"]}],
    "hh_rlhf": [
        {"chosen": f"\n\nHuman: q\n\nAssistant: {answer}", "rejected": "\n\nHuman: q\n\nAssistant: no"}
        for answer in "ab"
    ],
    "preference": [{"prompt": "q", "chosen": answer, "rejected": "no"} for answer in "ab"],
    "unpaired_preference": [{"prompt": "q", "completion": answer, "label": True} for answer in "ab"],
    "llava": [{"images": ["red.png"], "messages": [user("<image>"), assistant(answer)]} for answer in "ab"],
    "audio": [{"audios": ["tone.wav"], "messages": [user("<audio>"), assistant(answer)]} for answer in "ab"],
    "oasst": [message("r", None, "prompter", "q"), message("a", "r", "assistant", "a")],
}


def said(*turns):
    return {"messages": list(turns)}


def pair(**fields):
    return {"prompt": "q", "chosen": "a", "rejected": "b"} | fields


def shares(*turns):
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


def sees(*names):
    return {"images": list(names), "messages": [user("<image>"), assistant("a")]}


def hears(*names):
    return {"audios": list(names), "messages": [user("<audio>"), assistant("a")]}


def labelled(label):
    return {"prompt": "q", "completion": "a", "label": label}


def calls(value):
    return said(user("q"), {"role": "assistant", "tool_calls": value}, {"role": "tool", "content": "x"}, assistant("a"))


# The format, a row or a line of bytes, and the sentence.
ROWS = [
    # fields
    ("text", {"text": None}, "the field 'text' is null; give it a value or take the row out"),
    ("text", {"text": ""}, "the text is empty; give it text or take the row out"),
    ("text", {"text": " \n\t "}, "the text is empty; give it text or take the row out"),
    ("text", {"text": 3}, "the text is a number; write a string"),
    ("text", {"text": True}, "the text is a boolean; write a string"),
    ("text", b'{"text": NaN}', "the text is a number; write a string"),
    ("text", {"text": [["one"], [[]]]}, "the text is a list; write a string"),
    ("text", {"text": {"text": "one"}}, "the text is an object; write a string"),
    ("text", {}, "there is no field 'text' for the text; none is configured"),
    ("text", {"txt": "one"}, "there is no field 'text' for the text; did you mean 'txt'?"),
    ("text", {"prompt": "q", "completion": "a"}, "there is no field 'text' for the text; valid are completion, prompt"),
    ("text", {"text": "a\ud800b"}, "the text holds half of a surrogate pair; write the whole character"),
    ("text", {"te\ud800xt": "a"}, "there is no field 'text' for the text; did you mean 'te\\ud800xt'?"),
    ("text", {"te\nxt": "a"}, "there is no field 'text' for the text; did you mean 'te xt'?"),
    ("text", {"x" * 100_000: "a"}, f"there is no field 'text' for the text; valid are {'x' * 39}…"),
    ("text", [1, 2], "a row is an object with named fields, and this is a list"),
    ("text", None, "a row is an object with named fields, and this is null"),
    ("text", "one", "a row is an object with named fields, and this is a string"),
    ("text", {"text": "many words " * 500_000},
     "the row has 5,500,000 characters, and no model reads more than 1,000,000 at once; split it"),
    # JSON and its bytes
    ("text", b"{text: 1}", "invalid JSON at column 2: Expecting property name enclosed in double quotes"),
    ("text", b'{"text": "one"', "invalid JSON at column 15: Expecting ',' delimiter"),
    ("text", b'{"text": "o', "invalid JSON at column 10: Unterminated string starting at"),
    ("text", b'{"text": "a"} {"text": "b"}', "invalid JSON at column 15: Extra data"),
    ("text", b"{'text': 'a'}", "invalid JSON at column 2: Expecting property name enclosed in double quotes"),
    ("text", b'{"text": "a\0b"}', "invalid JSON at column 12: Invalid control character at"),
    ("text", b"[" * 100_000, "invalid JSON: nested too deeply"),
    ("text", b'{"text": ' + b"1" * 5000 + b"}",
     "invalid JSON: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
    ("text", '{"text": "ä"}'.encode("latin-1"), "not UTF-8 at byte 11; save the file as UTF-8"),
    ("text", '{"text": "a"}'.encode("utf-16"), "not UTF-8 at byte 1; save the file as UTF-8"),
    # turns
    ("messages", said(), "'messages' is a list of messages, and this is an empty list"),
    ("messages", {"messages": user("q")}, "'messages' is a list of messages, and this is an object"),
    ("messages", {"messages": "q"}, "'messages' is a list of messages, and this is a string"),
    ("messages", said(user("q"), 3), "message 2 of 'messages' needs the fields role and content"),
    ("messages", said([user("q"), assistant("a")]), "message 1 of 'messages' needs the fields role and content"),
    ("messages", said({"role": "user", "text": "q"}), "message 1 of 'messages' needs the fields role and content"),
    ("messages", said(user("q"), {"role": "asistant", "content": "a"}),
     "message 2 of 'messages' has the role 'asistant'; did you mean 'assistant'?"),
    ("messages", said({"role": ["user"], "content": "q"}),
     "the role of message 1 of 'messages' is a list; valid are assistant, system, tool, user"),
    ("messages", b'{"messages": [{"role": ' + b"[" * 900 + b"]" * 900 + b', "content": "q"}]}',
     "the role of message 1 of 'messages' is a list; valid are assistant, system, tool, user"),
    ("messages", said(user("q"), assistant("")), "the content of message 2 is empty; give it text or take the row out"),
    ("messages", said(user("q"), assistant(None)), "the content of message 2 is null; write a string"),
    ("messages", said(user([{"type": "image_url", "image_url": "x"}]), assistant("a")),
     "part 1 of the content of message 1 of the type image_url has no text; write parts {type: text, text: ...}"),
    ("messages", said(user([]), assistant("a")), "the content of message 1 is an empty list; write a string"),
    ("messages", said(user("q"), assistant("a"), user("q")),
     "'messages' ends with the user; the last message must be the assistant's"),
    ("messages", said(user("q"), user("q"), assistant("a")),
     "messages 1 and 2 are both the user's; join them, or write what came between"),
    ("messages", said(user("q"), assistant("a"), assistant("b")),
     "messages 2 and 3 are both the assistant's; join them, or write what came between"),
    ("messages", said(user("q"), system("s"), assistant("a")),
     "message 2 is the system's; write it first, or as the user's"),
    ("messages", said(user("q"), {"role": "tool", "content": "x"}, assistant("a")),
     "message 2 is a tool's, but the assistant called no tool"),
    ("messages", said(user("q") | {"tool_calls": [{"name": "f"}]}, assistant("a")),
     "message 1 of 'messages' has tool_calls, and only the assistant calls tools"),
    ("messages", calls("no JSON"), "the tool_calls of message 2 of 'messages' is not JSON; write a list of objects"),
    ("messages", calls(["f"]), "the tool_calls of message 2 of 'messages' is a list; write a list of objects"),
    ("messages", calls([{"function": "f"}]),
     "a call in tool_calls of message 2 of 'messages' needs the function's name and arguments"),
    ("messages", calls([{"function": {"name": "f", "arguments": {"x": float("nan")}}}]),
     "the tool_calls of message 2 of 'messages' is not JSON; write a list of objects"),
    ("messages", said(user("q"), assistant("a")) | {"tools": "[{"},
     "the field 'tools' is not JSON; write a list of objects"),
    ("messages", said(user("q"), assistant("a")) | {"tools": 3},
     "the field 'tools' is a number; write a list of objects"),
    ("messages", said(user("q"), assistant("a")) | {"tools": [{"name": "\ud800"}]},
     "the field 'tools' is not JSON; write a list of objects"),
    ("sharegpt", shares(("human", "q"), ("function_call", "f()"), ("observation", "x"), ("gpt", "a")),
     "the function_call in message 2 of 'conversations' is not JSON; write a list of objects"),
    ("sharegpt", shares(("human", "q"), ("function_call", "{}"), ("observation", "x"), ("gpt", "a")),
     "a call in message 2 of 'conversations' needs the function's name and arguments"),
    ("sharegpt", shares(("observation", "x"), ("gpt", "a")), "message 1 is a tool's, but the assistant called no tool"),
    ("sharegpt", shares(("human", "q"), ("gtp", "a")),
     "message 2 of 'conversations' has the role 'gtp'; valid are assistant, system, tool, user"),
    ("sharegpt", {"conversations": [{"from": "human"}]}, "the content of message 1 is null; write a string"),
    # prompt and answer
    ("prompt_completion", {"prompt": [assistant("a")], "completion": "a"},
     "'prompt' ends with the assistant; the last message must be the user's"),
    ("prompt_completion", {"prompt": "q", "completion": [user("a")]},
     "'completion' ends with the user; the last message must be the assistant's"),
    ("prompt_completion", {"prompt": {"role": "user", "content": "q"}, "completion": "a"},
     "the prompt is an object; write a string"),
    ("alpaca", {"instruction": "q", "output": "a", "history": [["q"]]},
     "the history is a list of [question, answer], and this is a list"),
    ("alpaca", {"instruction": "q", "output": "a", "history": [["q", None]]}, "the history is null; write a string"),
    ("alpaca", {"instruction": "q", "output": [user("q"), assistant("a")]},
     "messages 1 and 2 are both the user's; join them, or write what came between"),
    ("alpaca", {"instruction": "q", "input": {"x": 1}, "output": "a"}, "the input is an object; write a string"),
    ("ultrachat", {"data": ["q"]}, "the data is a list of what user and assistant say in turn, and this is a list"),
    ("ultrachat", {"data": ["q", "a", "q"]}, "'messages' ends with the user; the last message must be the assistant's"),
    ("ultrachat", {"data": ["q", ""]}, "the text 2 of the data is empty; give it text or take the row out"),
    # preferences
    ("hh_rlhf", {"chosen": "a", "rejected": "b"},
     "the chosen does not begin with 'Human:' or 'Assistant:' on a line of its own"),
    ("hh_rlhf", {"chosen": "\n\nHuman: q\n\nAssistant: ", "rejected": "\n\nHuman: q\n\nAssistant: b"},
     "the chosen, what the Assistant says is empty; give it text or take the row out"),
    ("hh_rlhf", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"},
     "chosen and rejected share no prompt; write one, as the field 'prompt'"),
    ("hh_rlhf", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"},
     "chosen and rejected are the same; a preference needs two different answers"),
    ("preference", pair(rejected="a"), "chosen and rejected are the same; a preference needs two different answers"),
    ("preference", pair(rejected=[assistant("a")]),
     "chosen and rejected are the same; a preference needs two different answers"),
    ("preference", pair(rejected=None), "the field 'rejected' is null; give it a value or take the row out"),
    ("preference", pair(chosen=""), "the chosen is empty; give it text or take the row out"),
    ("preference", pair(prompt=None), "chosen and rejected share no prompt; write one, as the field 'prompt'"),
    ("preference", pair(prompt=[user("q"), assistant("a")]),
     "'prompt' ends with the assistant; the last message must be the user's"),
    ("preference", {"chosen": [user("q"), assistant("a")], "rejected": [user("p"), assistant("b")]},
     "chosen and rejected share no prompt; write one, as the field 'prompt'"),
    ("preference", pair(chosen=[user("q"), assistant("a"), user("p")], rejected=[user("q"), assistant("b")]),
     "'chosen' ends with the user; the last message must be the assistant's"),
    ("unpaired_preference", labelled("good"),
     "the label is a string; write true for a wanted answer, false for an unwanted one"),
    ("unpaired_preference", labelled(2),
     "the label is a number; write true for a wanted answer, false for an unwanted one"),
    ("unpaired_preference", labelled(0.5),
     "the label is a number; write true for a wanted answer, false for an unwanted one"),
    ("unpaired_preference", labelled([True]),
     "the label is a list; write true for a wanted answer, false for an unwanted one"),
    ("unpaired_preference", labelled(None), "the field 'label' is null; give it a value or take the row out"),
    # images
    ("llava", sees("green.png"), "there is no image 'green.png'; check the path, or set `image_folder:`"),
    ("llava", sees("cut.png"), "'cut.png' cannot be read as an image; replace it"),
    ("llava", sees("cut.jpg"), "'cut.jpg' cannot be read as an image; replace it"),
    ("llava", sees("text.png"), "'text.png' cannot be read as an image; replace it"),
    ("llava", sees("bomb.png"), "'bomb.png' cannot be read as an image; replace it"),
    ("llava", sees("."), "'.' is no file; replace it"),
    ("llava", sees("a\0b"), "there is no image 'a\\x00b'; check the path, or set `image_folder:`"),
    ("llava", sees("flat.png"), "'flat.png' has 9 x 2 pixels, and a side has at least 4; take the row out"),
    ("llava", sees("wide.png"), "'wide.png' has 900 x 4 pixels: one side is more than 200 times the other; cut it"),
    ("llava", sees("film.gif"),
     "'film.gif' has several frames, and a model looks at one; save the one that is meant"),
    ("llava", sees("float.tif"), "'float.tif' is of Pillow's mode F; save it as RGB"),
    ("llava", sees("https://example.org/a.png"),
     "the image 'https://example.org/a.png' is an address, and nothing is fetched; download it, and write its path"),
    ("llava", sees("data:image/png,red"),
     "image 1 of the row is a data: address that is not base64; write data:image/png;base64, and then the bytes in base64"),
    ("llava", sees("data:image/png;base64,cmVk"), "image 1 of the row cannot be read as an image; replace it"),
    ("llava", {"images": ["red.png"], "messages": [user("q"), assistant("<image>")]},
     "an answer has <image>, and a model answers with text alone; show the image in the user's message, or take the row out"),
    ("llava", {"messages": [user([{"type": "video", "video": "a.mp4"}, {"type": "image", "image": "red.png"}]), assistant("a")]},
     "a message has a part of the type video, and these rows are about images; write parts {type: text, text: ...} and parts with a "
     "file"),
    ("llava", sees("red.png", "red.png"), "the text has 1 <image> and the row 2 images; write one for each"),
    ("llava", sees(), "the text has 1 <image> and the row 0 images; write one for each"),
    ("llava", sees("\udcff.png"), "the path of an image holds half of a surrogate pair; write the whole character"),
    ("llava", sees({"path": 3}), "the images are a list of paths, and this is a list"),
    ("llava", sees() | {"images": {"bytes": "x"}}, "the images are a list of paths, and this is an object"),
    # sounds
    ("audio", hears("green.wav"),
     "there is no sound file 'green.wav'; check the path, or set `image_folder:`"),
    ("audio", hears("text.wav"),
     "'text.wav' cannot be read as a sound; replace it; read are WAV, WAVEX, RF64, FLAC, OGG, MP3"),
    ("audio", hears("silent.wav"), "'silent.wav' is silent; record it again, or take the row out"),
    ("audio", hears("."), "'.' is no file; replace it"),
    ("audio", hears("tone.wav", "tone.wav"), "the text has 1 <audio> and the row 2 audios; write one for each"),
    ("audio", hears({"path": 3}), "the audios are a list of paths, and this is a list"),
    # trees; the sentence may be of a message that another one makes faulty
    ("oasst", message("a", "r", "assistant", "again"),
     "the message_id 'a' is that of rows.jsonl line 2 too; give each message its own"),
    ("oasst", message("x", "none", "assistant", "?"),
     "no root leads to the message 'x'; its parent 'none', or one before it, is missing or forms a cycle"),
    ("oasst", message("x", "x", "assistant", "?"),
     "no root leads to the message 'x'; its parent 'x', or one before it, is missing or forms a cycle"),
    ("oasst", message(None, "r", "assistant", "?"), "the message has no message_id; write one, as text"),
    ("oasst", message(7, "r", "assistant", "?"), "the message has no message_id; write one, as text"),
    ("oasst", message("x", ["r"], "assistant", "?"),
     "the parent_id is not text; write the message_id of the message before, or null"),
    ("oasst", message("x", "r", "assistant", "?", "0"),
     "the rank is not a number; write 0 for the best of its siblings, or null"),
    ("oasst", message("x", "r", "assistant", "?", deleted="False"),
     "the field deleted is not a boolean; write true, false or null"),
    ("oasst", message("x", "r", "assistant", ["?"]), "the text is not a string; write one"),
    ("oasst", message("x", None, "prompter", None), "the content of message 1 is null; write a string"),
    ("oasst", message("x", None, "prompter", "alone"),
     "'messages' ends with the user; the last message must be the assistant's"),
    ("oasst", message("x", None, "moderator", "?"),
     "message 1 of 'messages' has the role 'moderator'; valid are assistant, system, tool, user"),
    ("oasst", [1], "a message is an object with named fields"),
]  # fmt: skip


def bomb() -> bytes:
    """The beginning of a PNG that would take 10 GB when it is opened."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def lay_out_images() -> None:
    write("red.png", image())
    write("cut.png", image()[:-30])
    write("cut.jpg", image(kind="JPEG")[:-30])
    write("text.png", "red")
    write("bomb.png", bomb())
    write("flat.png", image(size=(9, 2)))
    write("wide.png", image(size=(900, 4)))
    frames = [Image.new("L", (8, 8), colour) for colour in (0, 255)]
    frames[0].save("film.gif", save_all=True, append_images=frames[1:])
    Image.new("F", (8, 8)).save("float.tif")
    write("text.wav", "red")
    for name, volume in (("tone.wav", 0.5), ("silent.wav", 0.0)):
        soundfile.write(name, volume * np.sin(0.1 * np.arange(8000)), 16_000)


@pytest.mark.parametrize(("format", "row", "sentence"), ROWS, ids=[f"{row[0]}: {row[2][:60]}" for row in ROWS])
def test_a_faulty_row_is_one_sentence_or_left_out(earlier, format, row, sentence):
    lay_out_images()
    fault = row if isinstance(row, bytes) else json.dumps(row).encode()
    good = [json.dumps(row).encode() for row in GOOD[format]]
    write("rows.jsonl", b"\n".join([*good, fault]) + b"\n")
    count = 2 if format == "oasst" else 3
    told = f"rows.jsonl line 3: {sentence} (1 of the first {count} rows of dataset rows are faulty, more than `max_dropped: 0.01` allows)"
    assert refusal("rows.jsonl") == told

    data = prepare(max_dropped=0.5)
    assert (data["rows"], data["train"], data["dropped"]["fault"]) == (count, count - 1, 1)
    line = dropped()[0]
    assert (line["place"], line["kind"], line["reason"]) == ("rows.jsonl line 3", "fault", sentence)
    assert len(line["row"]) <= ingest.SHOWN
    assert [row["place"] for row in read()] == [f"rows.jsonl line {number}" for number in range(1, count)]


def test_there_are_many_planted_faults():
    assert len(ROWS) + len(FILES) > 150


def test_the_first_row_may_be_the_faulty_one(in_folder):
    for fault in ("{}", "[]", "{", '{"prompt": null}'):
        write("rows.jsonl", fault + "\n" + text_lines("one", "two"))
        assert prepare(max_dropped=0.5)["dropped"]["fault"] == 1
        assert texts() == ["one", "two"]


def test_a_field_that_is_not_used_may_hold_anything(in_folder):
    values = [None, float("nan"), {"\ud800": ["\udfff"]}, "x" * 2_000_000, [[[[]]]], -(10**4000)]
    write("rows.jsonl", lines(*({"text": f"text {i}", "meta": value} for i, value in enumerate(values))))
    assert prepare()["train"] == len(values)


def test_a_sentence_with_much_of_the_file_in_it_is_cut(in_folder):
    write("rows.jsonl", lines(*GOOD["oasst"], message("x" * 5000, "none", "assistant", "?")))
    prepare(max_dropped=0.5)
    assert len(dropped()[0]["reason"]) == ingest.SENTENCE


def test_cycles_lose_all_their_messages(in_folder):
    circle = [
        message("x", "z", "prompter", "1"),
        message("y", "x", "assistant", "2"),
        message("z", "y", "prompter", "3"),
    ]
    write("rows.jsonl", lines(*GOOD["oasst"], *circle))
    data = prepare(max_dropped=0.9)
    assert (data["rows"], data["train"], data["dropped"]["fault"]) == (4, 1, 3)


def test_a_csv_row_with_too_many_or_too_few_fields_is_left_out(earlier):
    write("rows.csv", 'prompt,completion,label\nq,a,true\nq,"b\nb",FALSE\nq,a, and more,true\nq,c\n"q\n",,1\nq,d,yes\n')
    assert refusal("rows.csv").startswith(
        "rows.csv line 5: more fields than the header has; quote the commas (4 of the"
    )
    assert [row["label"] for row in (prepare("rows.csv", max_dropped=0.7), read())[1]] == [True, False]
    assert [(line["place"], line["reason"].split(";")[0]) for line in dropped()] == [
        ("rows.csv line 5", "more fields than the header has"),
        ("rows.csv line 6", "the field 'label' is null"),
        ("rows.csv line 7", "the completion is empty"),
        ("rows.csv line 9", "the label is a string"),
    ]


# ---- a file that cannot be read as a whole: it stops the build, whatever is allowed


def table(**columns) -> bytes:
    return parquet(pa.table(columns))


def parquet(values: pa.Table) -> bytes:
    pq.write_table(values, file := io.BytesIO())
    return file.getvalue()


def arrow(new, *words: str) -> bytes:
    values = pa.table({"text": words})
    with new(file := pa.BufferOutputStream(), values.schema) as writer:
        writer.write_table(values, max_chunksize=max(1, len(words) // 4))
    return file.getvalue().to_pybytes()


def zstd(raw: bytes) -> bytes:
    return pa.Codec("zstd").compress(raw).to_pybytes()


MANY = [f"row {i}" for i in range(4000)]
PARQUET = table(text=MANY)
TWICE = parquet(pa.table([["a"], ["b"]], names=["text", "text"]))
FILE, STREAM = arrow(pa.ipc.new_file, *MANY), arrow(pa.ipc.new_stream, *MANY)
RAW = text_lines(*MANY).encode()
GZIP, ZSTD = gzip.compress(RAW, mtime=0), zstd(RAW)
NOT_UTF8 = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
BATCH_END = STREAM.rindex(b"\xff\xff\xff\xff", 0, -8)  # where the last batch begins
FILES = [
    ("empty.jsonl", b"", "empty.jsonl: the file is empty; write at least one row"),
    ("empty.parquet", b"", "empty.parquet: the file is empty; write at least one row"),
    ("blank.jsonl", b"\n \r\n", "blank.jsonl: the file has no rows; write at least one"),
    ("none.json", b"[]", "none.json: the file has no rows; write at least one"),
    ("header.csv", b"text\n", "header.csv: the file has no rows; write at least one"),
    ("none.parquet", table(text=pa.array([], pa.string())), "none.parquet: the file has no rows; write at least one"),
    ("none.arrow", arrow(pa.ipc.new_stream), "none.arrow: the file has no rows; write at least one"),
    ("none.jsonl.gz", gzip.compress(b"", mtime=0), "none.jsonl.gz: the file has no rows; write at least one"),
    ("none.json.gz", gzip.compress(b"", mtime=0), "none.json.gz: the file is empty; write at least one row"),
    ("kind.txt", b"x",
     "kind.txt: unknown kind of file '.txt'; valid are .arrow, .csv, .json, .jsonl, .parquet, .tsv, and .gz or .zst of these"),
    ("kind.jsnl", b"x", "unknown kind of file '.jsnl'; did you mean '.jsonl'?"),
    ("kind.tar.gz", b"x", "unknown kind of file '.tar'"),
    ("kind", b"x", "unknown kind of file ''"),
    # JSON
    ("object.json", b'{"data": []}', "object.json: the file has no rows; write at least one"),
    ("value.json", b'"text"',
     "value.json: a .json file is one list of rows, or an object with the list under one key, and this is a single value; write a "
     "list, or a row a line in a file that is named .jsonl"),
    ("no.json", b"\n text", "no.json line 2: invalid JSON at column 1: Expecting value"),
    ("cut.json", b'[{"text": "a"},\n', "cut.json line 2: invalid JSON: the list does not end; is it cut?"),
    ("cut.json", b'[{"text": "a"},\n{"text": "b',
     "cut.json line 2: invalid JSON at column 10: Unterminated string starting at"),
    ("comma.json", b'[{"text": "a"},  {"text": "b",}]',
     "comma.json line 1: invalid JSON at column 31: Expecting property name enclosed in double quotes"),
    ("two.json", b'[{"text": "a"}]\n[{"text": "b"}]',
     "two.json line 1: invalid JSON: there is more after the end of the list; write one list"),
    ("deep.json", b"[" * 100_000, "deep.json line 1: invalid JSON: nested too deeply"),
    ("digits.json", b'[{"text": ' + b"1" * 5000 + b"}]",
     "digits.json line 1: invalid JSON: Exceeds the limit (4300 digits)"),
    ("nul.json", b'[{"text": "\0"}]', "nul.json line 1: invalid JSON at column 12: Invalid control character at"),
    ("latin.json", '[{"text": "a"},\n{"text": "ä"}]'.encode("latin-1"),
     "latin.json line 2: not UTF-8 at byte 11; save the file as UTF-8"),
    ("half.json", '[{"text": "a"}]\nä'.encode()[:-1], "half.json line 2: not UTF-8 at byte 1; save the file as UTF-8"),
    ("utf16.json", '[{"text": "a"}]'.encode("utf-16"),
     "utf16.json line 1: not UTF-8 at byte 1; save the file as UTF-8"),
    # CSV
    ("latin.csv", "text\none\nä\n".encode("latin-1"), "latin.csv line 3: not UTF-8 at byte 1; save the file as UTF-8"),
    ("utf16.csv", "text\none\n".encode("utf-16"), "utf16.csv line 1: not UTF-8 at byte 1; save the file as UTF-8"),
    ("open.csv", b'text\none\n"two\nthree\nfour\n', "open.csv line 3: invalid CSV: unexpected end of data"),
    ("quote.csv", b'text\none\n"two" or three\n', "quote.csv line 3: invalid CSV: ',' expected after '\"'"),
    ("mac.csv", b"text\rone\rtwo\r", "mac.csv line 1: invalid CSV: new-line character seen in unquoted field"),
    ("twice.csv", b"text,text\na,b\n", "twice.csv: two columns have the name 'text'; rename one of them"),
    ("nul.csv", b"\0\0\0\0\n\0\0\0\0\n", "fit no known format"),
    # Parquet and Arrow
    ("text.parquet", b"text", "text.parquet: not a Parquet file; check that it is whole"),
    ("cut.parquet", PARQUET[: len(PARQUET) // 2], "cut.parquet: not a Parquet file; check that it is whole"),
    ("footer.parquet", PARQUET[:-60] + b"\xff" * 50 + PARQUET[-10:], "footer.parquet: not a Parquet file"),
    ("page.parquet", PARQUET[:100] + bytes(500) + PARQUET[600:], "page.parquet: not a Parquet file"),
    ("latin.parquet", table(text=NOT_UTF8), "latin.parquet: a string in it is not UTF-8; write it again as UTF-8"),
    ("type.parquet", table(text=[1.5, 2.5]), "type.parquet line 1: the text is a number; write a string"),
    ("bytes.parquet", table(text=[b"a", b"b"]), "type bytes; write a string"),
    ("year.parquet", table(text=pa.array([10**12], pa.timestamp("s"))), "the field 'text' is null"),
    ("twice.parquet", TWICE, "twice.parquet: two columns have the name 'text'; rename one of them"),
    ("name.parquet", PARQUET.replace(b"text", b"t\xffxt"),
     "name.parquet: a string in it is not UTF-8; write it again as UTF-8"),
    ("name.arrow", STREAM.replace(b"text", b"t\xffxt"),
     "name.arrow: a string in it is not UTF-8; write it again as UTF-8"),
    ("text.arrow", b"a text that is long enough", "text.arrow: not an Arrow file; check that it is whole"),
    ("short.arrow", b"a", "short.arrow: not an Arrow file; check that it is whole"),
    ("cut.arrow", FILE[: len(FILE) // 2], "cut.arrow: not an Arrow file; check that it is whole"),
    ("end.arrow", FILE[:-1], "end.arrow: not an Arrow file; check that it is whole"),
    ("stream.arrow", STREAM[: len(STREAM) // 2], "stream.arrow: not an Arrow file; check that it is whole"),
    ("batch.arrow", STREAM[:BATCH_END],
     "batch.arrow: not an Arrow file; check that it is whole (the end of the stream is missing)"),
    ("latin.arrow", STREAM.replace(b"row 77", b"row\xff77"),
     "latin.arrow: a string in it is not UTF-8; write it again as UTF-8"),
    # packed
    ("cut.jsonl.gz", GZIP[: len(GZIP) // 2], "cut.jsonl.gz: it cannot be read to its end; check that it is whole"),
    ("last.jsonl.gz", GZIP[:-1], "last.jsonl.gz: it cannot be read to its end; check that it is whole"),
    ("sum.jsonl.gz", GZIP[:-8] + b"xxxx" + GZIP[-4:],
     "sum.jsonl.gz: it cannot be read to its end; check that it is whole"),
    ("more.jsonl.gz", GZIP + b"more", "more.jsonl.gz: it cannot be read to its end; check that it is whole"),
    ("plain.jsonl.gz", RAW, "plain.jsonl.gz: it cannot be read to its end; check that it is whole"),
    ("cut.jsonl.zst", ZSTD[: len(ZSTD) // 2], "cut.jsonl.zst: it cannot be read to its end; check that it is whole"),
    ("last.jsonl.zst", ZSTD[:-1], "last.jsonl.zst: it cannot be read to its end; check that it is whole"),
    ("plain.jsonl.zst", RAW, "plain.jsonl.zst: it cannot be read to its end; check that it is whole"),
    ("cut.csv.gz", gzip.compress(b"text\none\n", mtime=0)[:-9],
     "cut.csv.gz: it cannot be read to its end; check that it is whole"),
    ("cut.json.zst", zstd(b'[{"text": "a"}]')[:-2],
     "cut.json.zst: it cannot be read to its end; check that it is whole"),
    ("cut.parquet.gz", gzip.compress(PARQUET, mtime=0)[:-9],
     "cut.parquet.gz: it cannot be read to its end; check that it is whole"),
    ("cut.parquet.zst", zstd(PARQUET[:-9]), "cut.parquet.zst: not a Parquet file; check that it is whole"),
    ("cut.arrow.gz", gzip.compress(STREAM, mtime=0)[:-9], "cut.arrow.gz: "),
    # what no format has
    ("format.jsonl", lines({"ask": "q", "say": "a"}).encode(),
     "format.jsonl line 1: its columns ask, say fit no known format; say which is which with `columns:`, such as {prompt: ask, "
     "completion: say}, {text: ask} for plain text, or {prompt: ask} with `format: prompts`"),
    ("format.csv", b"chosen,rejected\na,b\n", "format.csv line 2: its columns chosen, rejected fit no known format"),
    ("format.jsonl", lines({f"c{i}": 1 for i in range(5000)}).encode(), "c10, c11 and 4988 more fit no known format"),
    ("format.jsonl", b"{}\n", "format.jsonl line 1: its columns  fit no known format"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "sentence"), FILES, ids=[f"{row[0]}: {row[2][:60]}" for row in FILES])
def test_a_faulty_file_is_one_sentence(earlier, name, raw, sentence):
    write(name, raw)
    for max_dropped in (0.01, 0.5):
        told = refusal(name, max_dropped=max_dropped)
        assert name in told
        assert sentence in told


@pytest.mark.parametrize(("name", "raw"), [row[:2] for row in FILES if "format" not in row[0]])
def test_a_faulty_file_is_one_sentence_where_the_format_is_given_and_all_may_be_dropped(earlier, name, raw):
    write(name, raw)
    assert name in refusal(name, format="text", max_dropped=1.0)


# ---- files that are not there


@pytest.mark.parametrize("path", ["none.jsonl", "none/*.jsonl", "none", "empty"])
def test_a_path_without_rows_is_one_sentence(earlier, path):
    write("empty/LICENSE", "MIT")
    told = f"dataset rows: {path} has no file of rows; write a path with .jsonl, .json, .csv, .tsv, .parquet, .arrow"
    assert refusal(path) == told


@pytest.mark.parametrize("name", [b"ro\xffws.jsonl", b"ro\nws.jsonl"])
def test_a_file_whose_name_is_no_text_is_one_sentence(earlier, name):
    write(os.fsdecode(b"some/" + name), text_lines("one"))
    assert refusal("some").endswith("ws.jsonl': the file's name is not one line of UTF-8; rename it")


HELD_OUT = {
    "none.jsonl": (None, "dataset rows, validation: none.jsonl has no file of rows"),
    "blank.jsonl": ("\n", "blank.jsonl: the file has no rows; write at least one"),
    "cut.jsonl": ('{"text": "b', "cut.jsonl line 1: invalid JSON at column 10"),
    "same.jsonl": (text_lines("one", "two"), "rows.jsonl: no row is left to train on; write more rows or a smaller `validation`"),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_file_of_held_out_rows_has_its_faults_as_well(earlier, name):
    content, sentence = HELD_OUT[name]
    write("rows.jsonl", text_lines("one", "two"))
    if content is not None:
        write(name, content)
    assert refusal("rows.jsonl", validation=name).startswith(sentence)


def test_held_out_rows_may_all_be_faulty_where_that_is_allowed(in_folder):
    write("rows.jsonl", text_lines("one", "two"))
    write("held_out.jsonl", lines({"text": 1}))
    data = prepare(validation="held_out.jsonl", max_dropped=0.5)
    assert (data["rows"], data["train"], data["validation"]) == (3, 2, 0)


# ---- how much may be faulty


def test_the_share_of_faults_decides_and_all_of_them_are_in_the_log(earlier, capsys):
    write("rows.jsonl", text_lines(*"abcdefgh") + lines({"text": 1}, {"text": 2}))
    assert "(2 of the first 10 rows of dataset rows are faulty, more than `max_dropped: 0.19` allows)" in refusal(
        "rows.jsonl", max_dropped=0.19
    )
    logged = [line for line in capsys.readouterr().out.splitlines() if "rows.jsonl line" in line]
    assert logged == [f"rows.jsonl line {line}: the text is a number; write a string" for line in (9, 10)]
    assert prepare(max_dropped=0.2)["train"] == 8


def test_reading_stops_where_most_rows_are_faulty_and_goes_on_where_that_is_allowed(earlier, monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1000)
    write("rows.jsonl", lines(*[{"text": 1}] * 1500) + text_lines(*(f"text {i}" for i in range(1500))))
    sentence = refusal("rows.jsonl", format="text", max_dropped=0.4)
    assert 500 < int(re.search(r"of the first (\d+) rows", sentence)[1]) < 600
    data = prepare(format="text", max_dropped=0.51)
    assert (data["rows"], data["train"]) == (3000, 1500)


def test_the_format_may_be_told_by_a_later_file(in_folder):
    write("some/a.jsonl", "[1]\n")
    write("some/b.jsonl", text_lines("one", "two"))
    assert prepare("some", max_dropped=0.5)["train"] == 2


def test_a_row_on_another_core_that_is_nested_deeply_is_a_fault_like_any_other(in_folder, monkeypatch):
    monkeypatch.setattr(ingest, "BLOCK_ROWS", 2)
    deep = '{"text": ' + "[" * 900 + "]" * 900 + "}"
    write("rows.json", '[{"text": "one"}, {"text": "two"}, ' + deep + ', {"text": "three"}]')
    assert prepare("rows.json", cores=2, max_dropped=0.5)["dropped"]["fault"] == 1
    assert texts() == ["one", "two", "three"]


def test_a_row_of_five_megabytes_is_a_fault_between_good_ones(in_folder):
    rows = [{"text": "one"}, {"text": "word " * 1_000_000}, {"text": "two"}]
    for name, content in {"rows.jsonl": lines(*rows), "rows.json": json.dumps(rows, indent=1)}.items():
        write(name, content)
        assert prepare(name, max_dropped=0.5)["dropped"]["fault"] == 1
        assert texts() == ["one", "two"]
        assert dropped()[0]["reason"].startswith("the row has 5,000,000 characters")
        assert len(dropped()[0]["row"]) == ingest.SHOWN
