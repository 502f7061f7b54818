"""Operations on the page records: one contract, a reference, and a twin per device."""
