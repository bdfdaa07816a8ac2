"""The stages of dvc.yaml, one script each: read parameters and inputs, call `otmf`, write outputs. No formula here."""
