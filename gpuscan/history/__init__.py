"""What a service decided and did, noted down as it goes: kept in bounded room, read, summed up."""
