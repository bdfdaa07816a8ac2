"""What an auditor is given of a version: page, JSON, bill of materials, lineage events."""
