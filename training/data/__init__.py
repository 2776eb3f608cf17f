"""From sources to de-duplicated, validated splits."""
