"""What the store holds, as votes, tables and counts; the outcome only once it may be seen."""
