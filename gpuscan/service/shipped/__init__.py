"""Files that come with the service: its unit, and a first configuration."""
