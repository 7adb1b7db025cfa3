"""The section `cache`, which changes no result."""

from pydantic import Field

from posttrain.config.fields import Number, Strict


class Cache(Strict):
    """A team's cache of finished stages. Nothing here changes a result or causes a rerun."""

    path: str | None = Field(
        None,
        description="folder that the team shares, or `s3://BUCKET/PREFIX`, see docs/cache.md; none where it is empty",
    )
    max_size_gib: Number = Field(
        100.0, gt=0, description="size above which the entries that were not used for longest are removed"
    )
    read_only: bool = Field(False, description="use what others have stored, and store nothing")
