"""What the DAG files have in common: recipes, the trigger form, the approval, documentation."""
