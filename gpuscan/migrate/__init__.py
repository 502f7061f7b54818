"""What moves pages: each module is one migrator (:class:`gpuscan.engine.stages.Migrator`)."""
