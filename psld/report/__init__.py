"""Tables, figures, certificates, plans of grids, and reports in wandb."""
