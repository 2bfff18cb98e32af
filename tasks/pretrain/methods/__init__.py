"""The methods of pretrain, one file each."""
