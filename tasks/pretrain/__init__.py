"""pretrain: new models, and models that read on."""

from tasks.pretrain.methods import continue_, scratch
from tasks.stage import Method

METHODS: dict[str, Method] = {"continue": continue_.METHOD, "scratch": scratch.METHOD}
