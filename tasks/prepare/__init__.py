"""prepare: text to tokens that a training step can map into memory."""

from tasks.prepare.methods import canaries, pack
from tasks.stage import Method

METHODS: dict[str, Method] = {"pack": pack.METHOD, "canaries": canaries.METHOD}
