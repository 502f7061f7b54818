"""kmigrated of RFC v1 beside its model: what a traced kernel says of its walks, a replay, a closed loop."""
