"""How good a bundle is: metrics, behaviour, plots and the model card."""
