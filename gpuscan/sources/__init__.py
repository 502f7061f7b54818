"""Where marks come from: each module is one source (:class:`gpuscan.flow.Source`) or reads what one needs."""
