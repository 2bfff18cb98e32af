"""The one trainer under pretrain, sft and align: loop, data order, checkpoints, objectives, schedules, models."""
