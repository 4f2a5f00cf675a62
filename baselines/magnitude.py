"""Choice by size: of the fine-tuned weight (`magnitude`), or of the update (`delta-magnitude`)."""

from baselines.base import keep_highest


@keep_highest("magnitude")
def magnitude(finetuned, pretrained, generator):
    """|W|."""
    return finetuned.abs()


@keep_highest("delta-magnitude")
def delta_magnitude(finetuned, pretrained, generator):
    """|W - W0|, taken in float32."""
    return (finetuned.float() - pretrained.float()).abs()
