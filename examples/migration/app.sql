CREATE TABLE accounts (id INTEGER PRIMARY KEY, plan TEXT NOT NULL);
INSERT INTO accounts VALUES (1, 'free'), (2, 'free'), (3, 'paid');
