"""The built-in designs, one file each: what it declares, and its model where no other design shares that."""
