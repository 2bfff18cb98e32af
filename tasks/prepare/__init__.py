"""prepare: text to tokens that a training step can map into memory."""

from tasks.prepare.methods import pack
from tasks.stage import Method

METHODS: dict[str, Method] = {"pack": pack.METHOD}
