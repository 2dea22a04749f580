-- Processors and memory of all running sandboxes of a team together; the largest number is
-- no limit.
ALTER TABLE teams ADD COLUMN max_total_vcpus INTEGER NOT NULL DEFAULT 4294967295;
ALTER TABLE teams ADD COLUMN max_total_memory_mib INTEGER NOT NULL DEFAULT 4294967295;
