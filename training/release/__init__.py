"""Gates, promotion, rollback and MLflow's registry."""
