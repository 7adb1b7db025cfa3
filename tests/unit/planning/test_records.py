"""What earlier jobs took."""

from posttrain.planning import records
from posttrain.workflow import paths


def test_records_of_what_the_configuration_no_longer_has_are_left_out(sizes):
    for job in ("data/chats", "data/gone", "overlap/gone", "tokens/tiny/gone,max_length=1024", "sft/gone", "eval/gone"):
        file = paths.record(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("s\tmax_rss\n2.5\t300\n")
        file.with_suffix(".log").write_text("")
    (found,) = records.read(sizes)
    assert (found.job, found.seconds, found.mb) == ("data/chats", 2.5, 300.0)
