"""gpuscan as the tiering service of a machine: rules, budgets, control, history (docs/service.md)."""
