-- Where other processes reach a member: a URI. NULL for a member that does not say.
ALTER TABLE eventbox_member ADD COLUMN endpoint text;
