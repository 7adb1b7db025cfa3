"""The section `evaluation`: what every model is measured on, and suites of more measurements."""

from typing import Annotated, ClassVar, Literal, Union
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from posttrain.config import aliases
from posttrain.config.environments import NAMES, EnvironmentName
from posttrain.config.fields import Count, Mistake, Name, Number, Strict
from posttrain.data.samples import ANSWERS
from posttrain.inference.environments import MAX_TOOL_TOKENS, MAX_TURNS, TOOL_SECONDS
from posttrain.metrics import text_metrics
from posttrain.runtime import user_code


class LikelihoodSuite(Strict):
    """The likelihood of a dataset's held-out rows under the model."""

    kind: Literal["perplexity", "preference"]
    data: Name = Field(description="the dataset whose held-out rows are used")
    limit: Count | None = Field(None, gt=0, description="number of held-out rows; by default evaluation.limit")


class Answering(Strict):
    """Keys of all suites in which the model generates completions."""

    limit: Count | None = Field(None, gt=0, description="number of prompts; by default evaluation.limit")
    max_new_tokens: Count | None = Field(
        None, gt=0, description="maximum length of a completion in tokens; by default evaluation.max_new_tokens"
    )


class GenerationSuite(Answering):
    """Completions of a dataset's held-out prompts, compared with their references."""

    other_spellings: ClassVar[dict[str, str]] = aliases.OF_SUITE

    kind: Literal["generation"]
    data: Name = Field(description="the dataset whose held-out prompts are completed")
    metrics: list[str] = Field(
        ["exact_match", "chrf", "rougeL"],
        min_length=1,
        description="metrics of a completion: names from docs/evaluation.md, or your own as `FILE.py:NAME`",
        json_schema_extra={
            "items": {"anyOf": [{"enum": [*text_metrics.NAMES]}, {"pattern": f"^{user_code.NAME.pattern}$"}]}
        },
    )
    pattern: str | None = Field(None, description="the regular expression of the metric `regex`")
    num_fewshot: Count = Field(
        0, ge=0, description="number of worked examples, from the training rows, before each prompt"
    )

    @property
    def own_metrics(self) -> list[str]:
        """The user's own metrics."""
        return list(filter(user_code.is_own, self.metrics))

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: list[str]) -> list[str]:
        if why := text_metrics.refusal(metrics):
            code = "unknown-name" if "there is no" in why else "invalid-value"
            raise Mistake.told(code, "", why)
        return metrics

    @model_validator(mode="after")
    def _pattern(self) -> "GenerationSuite":
        if self.pattern is None and "regex" in self.metrics:
            raise Mistake("missing-key", "pattern", "the metric `regex` needs a regular expression", "write `pattern`")
        if self.pattern is not None and "regex" not in self.metrics:
            raise Mistake(
                "key-without-effect", "pattern", "only the metric `regex` reads it", "add `regex` to `metrics`"
            )
        if why := text_metrics.is_pattern(self.pattern or ""):
            raise Mistake("invalid-value", "pattern", f"'{self.pattern}' is not a regular expression: {why}")
        return self


class EnvironmentSuite(Answering):
    """Episodes in an environment, which rewards them."""

    kind: Literal["environment"]
    data: Name = Field(description="the dataset whose held-out tasks are tried")
    environment: EnvironmentName = Field(description=f"{NAMES}, or your own class as `FILE.py:NAME`")
    max_turns: Count = Field(
        MAX_TURNS, gt=0, description="answers of the model in an episode, those with calls included"
    )
    max_tool_tokens: Count = Field(MAX_TOOL_TOKENS, gt=0, description="maximum length of a tool's result in tokens")
    tool_seconds: Number = Field(TOOL_SECONDS, gt=0, description="seconds after which a call of a tool is ended")


class RewardSuite(Answering):
    """Completions of a dataset's held-out prompts, scored by a reward model."""

    kind: Literal["reward"]
    data: Name = Field(description="the dataset whose held-out prompts are completed")
    by: str = Field(description="the run with `objective: reward` that scores the completions")


class Endpoint(Strict):
    """A judge behind an OpenAI-compatible `/chat/completions`; its key comes from an environment variable."""

    base_url: str = Field(description="address before `/chat/completions`, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="name of the model at the endpoint")
    key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="name of the environment variable with the key"
    )
    max_tokens: Count = Field(256, gt=0, description="maximum length of a reply in tokens, thoughts included")
    price_per_million_input: Number | None = Field(None, ge=0, description="price of a million prompt tokens")
    price_per_million_output: Number | None = Field(None, ge=0, description="price of a million reply tokens")
    max_cost: Number | None = Field(
        None, gt=0, description="the suite stops for a model before its verdicts cost more, in the prices' currency"
    )
    concurrency: Count = Field(4, gt=0, le=64, description="number of requests at once")
    timeout: Number = Field(60, gt=0, description="seconds to wait for a reply")

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        found = urlsplit(url)
        if found.scheme not in ("http", "https") or not found.netloc or found.query or found.fragment:
            hint = "write it as https://host/v1, without a query"
            raise Mistake("invalid-value", "", f"'{url}' is no address of an endpoint", hint)
        return url.rstrip("/")

    @model_validator(mode="after")
    def _prices(self) -> "Endpoint":
        if self.max_cost is not None and None in (self.price_per_million_input, self.price_per_million_output):
            hint = "write price_per_million_input and price_per_million_output"
            raise Mistake("missing-key", "max_cost", "without prices no cost is known", hint)
        return self


class JudgeSuite(Answering):
    """Completions of a dataset's held-out prompts, compared in pairs with another model's by a judge."""

    kind: Literal["judge"]
    data: Name = Field(description="the dataset whose held-out prompts are completed")
    against: str | None = Field(
        None, description="the base or run whose completions are the others; by default the parent"
    )
    by: str | None = Field(None, description="the base or run that judges")
    endpoint: Endpoint | None = Field(None, description="the endpoint that judges, instead of `by`")
    instruction: str | None = Field(
        None, description="text file that tells the judge what is better; by default the one of docs/judge.md"
    )
    allow_self: bool = Field(False, description="whether the judge may be one of the two models that are compared")

    @model_validator(mode="after")
    def _one_judge(self) -> "JudgeSuite":
        if self.by is None and self.endpoint is None:
            problem, hint = "nobody judges", "write `by: NAME` with a base or run, or `endpoint: {base_url, model}`"
            raise Mistake("missing-key", "by", problem, hint)
        if self.by is not None and self.endpoint is not None:
            raise Mistake("conflicting-keys", "endpoint", "`by` names a judge as well", "remove one of the two")
        if self.allow_self and self.by is None:
            raise Mistake("key-without-effect", "allow_self", "an endpoint is none of the compared models", "remove it")
        return self


class TasksSuite(Strict):
    """Tasks of lm-evaluation-harness, run on this project's own engine; needs `pip install lm-eval`."""

    other_spellings: ClassVar[dict[str, str]] = aliases.OF_SUITE

    kind: Literal["tasks"]
    tasks: list[str] = Field(min_length=1, description="names of lm-eval tasks or groups")
    include_path: str | None = Field(None, description="folder with task files of your own")
    limit: Count | None = Field(None, gt=0, description="number of documents of each task; by default evaluation.limit")
    num_fewshot: Count | None = Field(
        None, ge=0, description="number of worked examples; by default the task's own number"
    )
    apply_chat_template: bool | None = Field(
        None, description="put the prompts into the chat template; by default if the base has one"
    )


class SafetySuite(Answering):
    """Whether harmful requests are refused and harmless ones are not, and how the model speaks about groups of people."""

    kind: Literal["safety"]
    files: list[str] | None = Field(None, description="prompts of your own, .jsonl; by default the shipped ones")


class CasesSuite(Strict):
    """Prompts of your own with what must and must not appear in the answer; see docs/cases.md."""

    kind: Literal["cases"]
    path: str = Field(description="YAML file with the cases")
    max_new_tokens: Count | None = Field(
        None,
        gt=0,
        description="maximum length of an answer in tokens, where a case has none of its own; by default evaluation.max_new_tokens",
    )


SUITES = {
    **dict.fromkeys(("perplexity", "preference"), LikelihoodSuite),
    "generation": GenerationSuite,
    "environment": EnvironmentSuite,
    "reward": RewardSuite,
    "judge": JudgeSuite,
    "tasks": TasksSuite,
    "safety": SafetySuite,
    "cases": CasesSuite,
}
Suite = Annotated[Union[tuple(dict.fromkeys(SUITES.values()))], Field(discriminator="kind")]  # noqa: UP007


class Evaluation(Strict):
    """What every model is measured on."""

    data: list[Name] | None = Field(
        None, description="the datasets whose held-out rows are used; by default every run's training dataset"
    )
    outside: list[Name] = Field(
        [],
        description="datasets outside the domain, whose held-out rows are used as well: the report compares each run inside and outside "
        "of its domain, see docs/domain.md",
    )
    limit: Count = Field(
        100,
        gt=0,
        description="number of held-out rows of each dataset, chosen by the hash of their id; the parts of a mixture keep their shares",
    )
    max_length: Count = Field(1024, gt=1, description="maximum length of an example in tokens, as in training")
    max_new_tokens: Count = Field(256, gt=0, description="maximum length of a completion in tokens")
    answers: Count = Field(
        ANSWERS,
        ge=0,
        description="number of completions generated for each dataset of conversations, to be read side by side; 0 for none",
    )
    batch_tokens: Count = Field(4096, gt=0, description="tokens in a batch; limits the memory that is used")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="precision of scoring and generation; bf16 is faster, but results vary with the batches"
    )
    repetition_penalty: Number = Field(
        1.0,
        gt=0,
        description="penalty on tokens that have already occurred (CTRL); 1 for none, whatever the base's generation config says",
    )
    suites: dict[Name, Suite] = Field({}, description="more measurements by name, see below and docs/evaluation.md")
