"""What people look at: tables, figures, and runs and dashboards in wandb."""
