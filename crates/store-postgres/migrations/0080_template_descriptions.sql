-- What a template is for, in its team's words.
ALTER TABLE templates ADD COLUMN description TEXT;
