"""The methods of prepare, one file each."""
