BEGIN TRANSACTION;
CREATE TABLE audit(
  seq INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  object TEXT NOT NULL, payload_sha TEXT NOT NULL, prev_sha TEXT NOT NULL, sha TEXT NOT NULL);
INSERT INTO "audit" VALUES(1,'2026-01-01T00:00:00.000000+00:00','study','open','b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2','3d6a916e86efba9105154ea95dda8d8da47df173d931c23e7a346c7babd81a3e','0000000000000000000000000000000000000000000000000000000000000000','25eeeb4836ce68c5de306b8df55520f0da43a029cd5785b680b3e04ff5e0485a');
INSERT INTO "audit" VALUES(2,'2026-01-01T00:00:00.000000+00:00','5ce72b8adae021d3','enrol','5ce72b8adae021d3','43b818023cb0551e175f0524e32e0ee00e63c70975d00835048c9b47b68a8c3a','25eeeb4836ce68c5de306b8df55520f0da43a029cd5785b680b3e04ff5e0485a','711f0ad52488ed4be55fba59c3510dd09644b0e2aa4bfd0da5a758deb984701b');
INSERT INTO "audit" VALUES(3,'2026-01-01T00:00:00.000000+00:00','5ce72b8adae021d3','begin','5ce72b8adae021d3-1-1','3bc32698284b3b1b388f610eda3b416553601b76c2dac2b7e9ec25874f44dfdf','711f0ad52488ed4be55fba59c3510dd09644b0e2aa4bfd0da5a758deb984701b','686e969f9e697303bb569c71f2153f4fbb7eef0f05250dca0bb5802b22de4301');
INSERT INTO "audit" VALUES(4,'2026-01-01T00:00:00.000000+00:00','5ce72b8adae021d3','void','5ce72b8adae021d3-1-1','1a18874a6cf0a80d614c983322bd4cbe38bc2ee965f10c44a4de2da1cc343bb3','686e969f9e697303bb569c71f2153f4fbb7eef0f05250dca0bb5802b22de4301','efd0bf94d3dafadf07bc712cf85aa937c50349ef0d3a28acb415f47985951d53');
INSERT INTO "audit" VALUES(5,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','enrol','46d3313f4a2d4b15','b622e49393812cc1a00068fe9ae6339492c6227601bf74138161be82a23d36d0','efd0bf94d3dafadf07bc712cf85aa937c50349ef0d3a28acb415f47985951d53','097fecc00a56ed59035cff869f39a942044ba846f727d57a4183de1652cf9ce8');
INSERT INTO "audit" VALUES(6,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','begin','46d3313f4a2d4b15-1-1','72b5053fdfe196e6ba1277515674ef413261c848686a71fe6e20c54aaabbf230','097fecc00a56ed59035cff869f39a942044ba846f727d57a4183de1652cf9ce8','815e52faeaba27496c9a520e4db0ebad12ac670faaba92a60d3f5d4c1946d651');
INSERT INTO "audit" VALUES(7,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','vote','b6bd8639e8b5291a07acefe09bcdc319','823062f961a62ed685a60361bf523bebcda4fa26d216e1aa7757c29df6a52944','815e52faeaba27496c9a520e4db0ebad12ac670faaba92a60d3f5d4c1946d651','9651c3397997226cd94193472145029bae389f8c8806e3590e4aef36573c23ff');
INSERT INTO "audit" VALUES(8,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','begin','46d3313f4a2d4b15-2-1','73632625cd4082533d5183fcb3a603afcfce870a0022feb3831129fea5441755','9651c3397997226cd94193472145029bae389f8c8806e3590e4aef36573c23ff','c899ed3e8ee4b089025312f067214ef87747b66a888fd7d00b78d3e1c5050e34');
INSERT INTO "audit" VALUES(9,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','vote','bbca593e59ec7a8768500a029dc1f186','da39530ffe0da4cf3607243ce719d3db71174be8e3e936fe3b867c065bdecf87','c899ed3e8ee4b089025312f067214ef87747b66a888fd7d00b78d3e1c5050e34','5424f875d8d667d1709d8b034e200075ff2025958baef97397f6767119a38fb6');
INSERT INTO "audit" VALUES(10,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','respond','remarks','3ca95dd2d175c4d1538c7a67369fa0b0cba2a4d38e663d48b1d73202879261a1','5424f875d8d667d1709d8b034e200075ff2025958baef97397f6767119a38fb6','22a445b308b042588b802b5dc13d913d443a865b01927f298fc62c2f851621cb');
INSERT INTO "audit" VALUES(11,'2026-01-01T00:00:00.000000+00:00','46d3313f4a2d4b15','complete','46d3313f4a2d4b15','a5480ada541cbb4898b3eca267e8ac5215c3ddb412778814252641aa83b387db','22a445b308b042588b802b5dc13d913d443a865b01927f298fc62c2f851621cb','652de5d359a854033262f5cd5b9915ce3f1698d7a30fcc2d6bf82311f11d4202');
INSERT INTO "audit" VALUES(12,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','enrol','fa4f7303c2f3570d','53881eab6d77fe0d3a976da89aedb0d8fe6b611e24371943f11195dfabd16a49','652de5d359a854033262f5cd5b9915ce3f1698d7a30fcc2d6bf82311f11d4202','6c12a7c5ba7f72341a9636e0ebe01acafc6ceabbe5d9ce9574978530aa9d4ceb');
INSERT INTO "audit" VALUES(13,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','begin','fa4f7303c2f3570d-1-1','1f48a786a63834a842558ad23193521e6024053d658b55b5f68711f93d1ebf9f','6c12a7c5ba7f72341a9636e0ebe01acafc6ceabbe5d9ce9574978530aa9d4ceb','8f5605a63cce19b07d40cda70a2cdddd1f90904c61ba45fa0a3058ec149e84c9');
INSERT INTO "audit" VALUES(14,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','vote','f35ecf124b7c074ad1246536724f1181','ae2914fcd9d80c55eceed79387ea485c266cad6f87097974dd3e811c955d1316','8f5605a63cce19b07d40cda70a2cdddd1f90904c61ba45fa0a3058ec149e84c9','439c39c5eee298807b3cfd36567866fe1a6b3bcbc99a127bb70bd475e93a7082');
INSERT INTO "audit" VALUES(15,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','begin','fa4f7303c2f3570d-2-1','3d5abb6aac67d7ba7296bb91be80924ae9ae46202372c234ff79ea7a1087420b','439c39c5eee298807b3cfd36567866fe1a6b3bcbc99a127bb70bd475e93a7082','d3357298a8369384bb232a3f2986922336d7e8f39cd7c0c217494aa2b2f68ab2');
INSERT INTO "audit" VALUES(16,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','vote','799b60894f7fbaa5dac0f3e30ee1c2a6','50920bca15b2f16161ebe31546676703da5db7d3c455dd7e5c05718cad5657cd','d3357298a8369384bb232a3f2986922336d7e8f39cd7c0c217494aa2b2f68ab2','6bc7060872ee1ce37d7bd2ed63a4ef30483b9e538380f1ef506fb33ee609774e');
INSERT INTO "audit" VALUES(17,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','respond','remarks','78a728697a8bc4a93555a88f4c0fbe5147e1b180cc49c8d7c806016d962422a3','6bc7060872ee1ce37d7bd2ed63a4ef30483b9e538380f1ef506fb33ee609774e','192f6aa9c058052eb448522864a6b03b50f72c6a930677dd6a2c60d5d6789f7b');
INSERT INTO "audit" VALUES(18,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','complete','fa4f7303c2f3570d','6a37e841ab97ba66427bce452a0f6728a8be401e408da186b15c086a4d789e62','192f6aa9c058052eb448522864a6b03b50f72c6a930677dd6a2c60d5d6789f7b','de7f5495529bc2ce1c6af012d414f718b8f0fb4c30ea0a6acab620b4f71c8fc2');
INSERT INTO "audit" VALUES(19,'2026-01-01T00:00:00.000000+00:00','fa4f7303c2f3570d','erased','fa4f7303c2f3570d','6a37e841ab97ba66427bce452a0f6728a8be401e408da186b15c086a4d789e62','de7f5495529bc2ce1c6af012d414f718b8f0fb4c30ea0a6acab620b4f71c8fc2','8116766f5ba1e2b3c2241445f036596aca3937533d9a84973f9a982b0e80a5f9');
CREATE TABLE cell_pool(
  version_id TEXT NOT NULL, block INTEGER NOT NULL, place INTEGER NOT NULL, cell TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('free', 'held', 'done')),
  participant_id TEXT UNIQUE, held_until TEXT,
  PRIMARY KEY(version_id, block, cell),
  CHECK((state = 'free') = (participant_id IS NULL)));
INSERT INTO "cell_pool" VALUES('b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2',1,0,'0b','held','5ce72b8adae021d3','2026-01-01T02:00:00.000000+00:00');
INSERT INTO "cell_pool" VALUES('b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2',1,1,'0a','done','46d3313f4a2d4b15',NULL);
INSERT INTO "cell_pool" VALUES('b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2',2,0,'0b','free',NULL,NULL);
INSERT INTO "cell_pool" VALUES('b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2',2,1,'0a','free',NULL,NULL);
CREATE TABLE consent(
  participant_id TEXT PRIMARY KEY REFERENCES participant, consent_sha TEXT NOT NULL,
  locale TEXT NOT NULL, given_at TEXT NOT NULL,
  share_text INTEGER NOT NULL CHECK(share_text IN (0, 1)));
INSERT INTO "consent" VALUES('5ce72b8adae021d3','c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77','en','2026-01-01T00:00:00.000000+00:00',1);
INSERT INTO "consent" VALUES('46d3313f4a2d4b15','c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77','en','2026-01-01T00:00:00.000000+00:00',1);
INSERT INTO "consent" VALUES('fa4f7303c2f3570d','c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77','en','2026-01-01T00:00:00.000000+00:00',1);
CREATE TABLE erasing(participant_id TEXT PRIMARY KEY);
CREATE TABLE event(
  id INTEGER PRIMARY KEY, participant_id TEXT NOT NULL REFERENCES participant, trial_id TEXT,
  t_client_ms REAL, server_at TEXT NOT NULL, kind TEXT NOT NULL);
CREATE TABLE generation(
  turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE, arm TEXT NOT NULL,
  side TEXT NOT NULL CHECK(side IN ('L', 'R')), output_text TEXT NOT NULL,
  n_tokens INTEGER NOT NULL, stop_reason TEXT NOT NULL, ttft_ms REAL, total_ms REAL,
  details_json TEXT NOT NULL, PRIMARY KEY(turn_id, side));
INSERT INTO "generation" VALUES(1,'steered','L','An answer of steered.',4,'eos',NULL,NULL,'{"layer": 3}');
INSERT INTO "generation" VALUES(1,'unsteered','R','An answer of unsteered.',4,'eos',NULL,NULL,'{"layer": 3}');
INSERT INTO "generation" VALUES(2,'unsteered','L','An answer of unsteered.',4,'eos',NULL,NULL,'{"layer": 3}');
INSERT INTO "generation" VALUES(2,'steered','R','An answer of steered.',4,'eos',NULL,NULL,'{"layer": 3}');
INSERT INTO "generation" VALUES(3,'steered','L','An answer of steered.',4,'eos',NULL,NULL,'{"layer": 3}');
INSERT INTO "generation" VALUES(3,'unsteered','R','An answer of unsteered.',4,'eos',NULL,NULL,'{"layer": 3}');
CREATE TABLE outbox(
  seq INTEGER PRIMARY KEY, participant_id TEXT, kind TEXT NOT NULL, payload TEXT, acked_at TEXT);
INSERT INTO "outbox" VALUES(1,NULL,'open','{"about": "b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2", "number": 1}',NULL);
INSERT INTO "outbox" VALUES(2,'5ce72b8adae021d3','enrol','{"about": "5ce72b8adae021d3", "plan_seed": "20260101/1/0b", "version": "b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2", "consent_sha": "c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77", "locale": "en", "given_at": "2026-01-01T00:00:00.000000+00:00", "share_text": 1}',NULL);
INSERT INTO "outbox" VALUES(3,'5ce72b8adae021d3','begin','{"about": "5ce72b8adae021d3-1-1", "gen_seed": 202787822773095}',NULL);
INSERT INTO "outbox" VALUES(4,'5ce72b8adae021d3','void','{"about": "5ce72b8adae021d3-1-1", "reason": "reported", "detail": "It was rude to me."}',NULL);
INSERT INTO "outbox" VALUES(5,'46d3313f4a2d4b15','enrol','{"about": "46d3313f4a2d4b15", "plan_seed": "20260101/1/0a", "version": "b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2", "consent_sha": "c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77", "locale": "en", "given_at": "2026-01-01T00:00:00.000000+00:00", "share_text": 1}',NULL);
INSERT INTO "outbox" VALUES(6,'46d3313f4a2d4b15','begin','{"about": "46d3313f4a2d4b15-1-1", "gen_seed": 274624810000183}',NULL);
INSERT INTO "outbox" VALUES(7,'46d3313f4a2d4b15','vote','{"about": "b6bd8639e8b5291a07acefe09bcdc319", "vote_id": "b6bd8639e8b5291a07acefe09bcdc319", "trial_id": "46d3313f4a2d4b15-1-1", "revision": 1, "choice": "L", "strength": null, "reason": null, "shown_ms": null, "decided_ms": null, "server_at": "2026-01-01T00:00:00.000000+00:00"}',NULL);
INSERT INTO "outbox" VALUES(8,'46d3313f4a2d4b15','begin','{"about": "46d3313f4a2d4b15-2-1", "gen_seed": 13371930729264}',NULL);
INSERT INTO "outbox" VALUES(9,'46d3313f4a2d4b15','vote','{"about": "bbca593e59ec7a8768500a029dc1f186", "vote_id": "bbca593e59ec7a8768500a029dc1f186", "trial_id": "46d3313f4a2d4b15-2-1", "revision": 1, "choice": "L", "strength": null, "reason": null, "shown_ms": null, "decided_ms": null, "server_at": "2026-01-01T00:00:00.000000+00:00"}',NULL);
INSERT INTO "outbox" VALUES(10,'46d3313f4a2d4b15','respond','{"about": "remarks", "item": "remarks", "revision": 1, "value": "a remark of a"}',NULL);
INSERT INTO "outbox" VALUES(11,'46d3313f4a2d4b15','complete','{"about": "46d3313f4a2d4b15"}',NULL);
INSERT INTO "outbox" VALUES(12,'fa4f7303c2f3570d','enrol',NULL,NULL);
INSERT INTO "outbox" VALUES(13,'fa4f7303c2f3570d','begin',NULL,NULL);
INSERT INTO "outbox" VALUES(14,'fa4f7303c2f3570d','vote',NULL,NULL);
INSERT INTO "outbox" VALUES(15,'fa4f7303c2f3570d','begin',NULL,NULL);
INSERT INTO "outbox" VALUES(16,'fa4f7303c2f3570d','vote',NULL,NULL);
INSERT INTO "outbox" VALUES(17,'fa4f7303c2f3570d','respond',NULL,NULL);
INSERT INTO "outbox" VALUES(18,'fa4f7303c2f3570d','complete',NULL,NULL);
INSERT INTO "outbox" VALUES(19,'fa4f7303c2f3570d','erased',NULL,NULL);
INSERT INTO "outbox" VALUES(20,NULL,'forget','{"about": "fa4f7303c2f3570d"}',NULL);
CREATE TABLE participant(
  participant_id TEXT PRIMARY KEY, study_id TEXT NOT NULL, pid_hmac BLOB NOT NULL,
  source TEXT NOT NULL CHECK(source IN ('link', 'prolific', 'mturk', 'lab', 'bot')),
  version_id TEXT NOT NULL REFERENCES study_version, plan_seed TEXT NOT NULL, cell TEXT NOT NULL,
  status TEXT NOT NULL CHECK(status IN
    ('enrolled', 'active', 'complete', 'screened', 'withdrawn', 'erased', 'stale')),
  token_hash BLOB NOT NULL UNIQUE, salt BLOB, created_at TEXT NOT NULL,
  UNIQUE(study_id, pid_hmac));
INSERT INTO "participant" VALUES('5ce72b8adae021d3','two-answers',X'4CC2EAD96F2DE8D9F2C753EE2F4DD6D8C92A68EED7D92B0C0517BC33BFD5F4E3','lab','b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2','20260101/1/0b','0b','active',X'DB74C774D9A88EB8879D66BA8B51F30F0BE2129126DDA2622140B3BAC6177878',X'DC1D9A60DAEBF880BA6947679BAA5B79CDE16DBD7795722843CB064E8B208D18','2026-01-01T00:00:00.000000+00:00');
INSERT INTO "participant" VALUES('46d3313f4a2d4b15','two-answers',X'126118B9CADCE2648B66A070DCC0556179CD422F47568CBA2F54EC01916237A4','lab','b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2','20260101/1/0a','0a','complete',X'32C8B390EBC0B75C6909F237481AB0859451FADE17B2AA0FDE9BB47839A1341F',X'B7F61DAC8B9599293A87D68D2F0B8A6C5A95BAD4115AD1B808742DA9C844DEEF','2026-01-01T00:00:00.000000+00:00');
INSERT INTO "participant" VALUES('fa4f7303c2f3570d','two-answers',X'2D20B5F239778E41E4622EFEB3B8ADCE1A7E51705D3510ECB39501364AF04724','lab','b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2','20260101/2/0b','0b','erased',X'33FEE00BEFC396001D3ED88964B2920116C6F0CC2B7B9CDE390D831D711F9F21',NULL,'2026-01-01T00:00:00.000000+00:00');
CREATE TABLE response(
  participant_id TEXT NOT NULL REFERENCES participant, item_id TEXT NOT NULL,
  revision INTEGER NOT NULL, value_json TEXT NOT NULL, server_at TEXT NOT NULL,
  PRIMARY KEY(participant_id, item_id, revision));
INSERT INTO "response" VALUES('46d3313f4a2d4b15','remarks',1,'"a remark of a"','2026-01-01T00:00:00.000000+00:00');
CREATE TABLE setting(name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "setting" VALUES('erased_votes','2');
CREATE TABLE study_version(
  version_id TEXT PRIMARY KEY, study_id TEXT NOT NULL, number INTEGER NOT NULL,
  config_json TEXT NOT NULL, opened_at TEXT NOT NULL);
INSERT INTO "study_version" VALUES('b47e4e2e02b31e242d299cba6d246510ab24d30f0804fac14a3486e2322b0fa2','two-answers',1,'{"code":null,"consent_sha256":"c3936fa110ee5bae0020c0449a013c956aadff444b79cdbae79d9d12e5265a77","fingerprint":"d9b43f274c982c37","number":1,"packages":{"gradio":"6.31.0","saif":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0"},"presets":{"translate-french.json":"f625e72f7268316bb4936e2cd4e52e28b4d357ee1d1e089770832cc0850f027f","translate-french.safetensors":"202f890bf7f2ae31823254c3d4f33113d30256fbdd157908262e6211dea482cd"},"saes":{"smollm2-135m-instruct/sae/14":"1db56d24d838ebcd3eeaa2c72fb684c836083b17903c67c83d51dc8f80d194f1","smollm2-135m-instruct/sae/18":"102d019759278c8837c4deb27a5de043ab7fda2e331a2bf6e1b50983cfccccfc","smollm2-135m-instruct/sae/24":"df39540eece74cdda51c4566d2f46123deaef6520630172cec47f0d4b25826e2","smollm2-135m-instruct/sae/29":"6bcaebe01c163136b562724cd8a4a238c9df003c4ab82b43740253ebe849c880"},"schema_version":1,"study":{"arms":["steered","unsteered"],"attention":[],"consent":{"ask_to_share":true,"locale":"en","text":"You are invited to take part in a research study on answers of language models.\n\nWhat you will do: read pairs of short answers written by a computer and say which you prefer.\nIt takes about 10 minutes.\n\nRisks and benefits: answers can be wrong, and now and then offensive; you may skip any of them.\nThere is no direct benefit to you.\n\nPayment: you are paid as announced, and in part if you have to stop early.\n\nYour data: we store your votes and answers, the messages you send, and how long you take. They\nare kept under a random number, apart from your recruitment identity, and deleted after a year.\nWe ask separately whether texts may be published.\n\nTaking part is voluntary. You may stop at any time without giving a reason, and withdraw your\ndata with the code you will get, until the results are published.\n\nQuestions: write to the contact on this page.\n","version":"1"},"debrief":"Thank you. In each pair, both answers came from the same language model. For one of them its inner\nactivity was steered towards answering in French; the other one was left alone. You were not told\nwhich is which so that your choice would depend on the answers only.\n","ethics":{"contact":"study@example.org","content_warning":"The answers are written by a small model. They can be wrong or offensive.","irb":null},"failed_checks":0,"generation":{"max_new_tokens":80,"temperature":0.0,"top_p":1.0},"id":"two-answers","model":"HuggingFaceTB/SmolLM2-135M-Instruct","other":null,"preference":{"both_bad":true,"strength":["slightly better","better","much better"],"text":"Imagine you are learning French. Which answer helps you more?","tie":true},"presets":[{"placement":"post","preset":"translate-french","strength":1.0}],"prompts":{"items":[{"id":"weather","text":"The weather is lovely today."},{"id":"bicycle","text":"My brother bought a new bicycle last week."},{"id":"market","text":"We are going to the market tomorrow morning."},{"id":"house","text":"The old house by the river is empty."},{"id":"coffee","text":"She drinks a cup of coffee before work."},{"id":"garden","text":"The children are playing in the garden."},{"id":"train","text":"The train to the coast leaves at noon."},{"id":"letter","text":"He wrote a long letter to his aunt."}],"kind":"fixed","practice":[{"id":"practice-1","text":"The soup is still too hot."}]},"questions":[{"high":"very","id":"fluent","kind":"likert","low":"not","points":5,"required":false,"text":"How fluent?","when":"trial"},{"id":"remarks","kind":"text","max_length":1000,"required":true,"text":"Anything else?","when":"end"}],"quota":{"complete":1000,"stale_minutes":120},"recruitment":{"kind":"link"},"resume":{"max_age_hours":24,"policy":"resume"},"retention_days":365,"schema_version":1,"seed":20260101,"title":"Which of two answers do you prefer?","trials":{"main":2,"practice":0,"presets":"within","retest":0,"turns":1}}}','2026-01-01T00:00:00.000000+00:00');
CREATE TABLE trial(
  trial_id TEXT PRIMARY KEY, participant_id TEXT NOT NULL REFERENCES participant,
  position INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 1,
  kind TEXT NOT NULL CHECK(kind IN ('practice', 'main', 'attention', 'retest')),
  retest_of INTEGER, check_id TEXT, preset TEXT, prompts_json TEXT NOT NULL,
  left_arm TEXT NOT NULL, right_arm TEXT NOT NULL, gen_seed INTEGER NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('planned', 'running', 'ready', 'voted', 'void')),
  void_reason TEXT, vote_id TEXT UNIQUE, started_at TEXT,
  UNIQUE(participant_id, position, attempt),
  CHECK((state = 'void') = (void_reason IS NOT NULL)));
INSERT INTO "trial" VALUES('5ce72b8adae021d3-1-1','5ce72b8adae021d3',1,1,'main',NULL,NULL,'translate-french/post/1','["letter"]','steered','unsteered',202787822773095,'void','reported',NULL,'2026-01-01T00:00:00.000000+00:00');
INSERT INTO "trial" VALUES('5ce72b8adae021d3-2-1','5ce72b8adae021d3',2,1,'main',NULL,NULL,'translate-french/post/1','["house"]','unsteered','steered',111309122088197,'planned',NULL,NULL,NULL);
INSERT INTO "trial" VALUES('5ce72b8adae021d3-1-2','5ce72b8adae021d3',1,2,'main',NULL,NULL,'translate-french/post/1','["letter"]','steered','unsteered',210163002082629,'planned',NULL,NULL,NULL);
INSERT INTO "trial" VALUES('46d3313f4a2d4b15-1-1','46d3313f4a2d4b15',1,1,'main',NULL,NULL,'translate-french/post/1','["letter"]','unsteered','steered',274624810000183,'voted',NULL,'b6bd8639e8b5291a07acefe09bcdc319','2026-01-01T00:00:00.000000+00:00');
INSERT INTO "trial" VALUES('46d3313f4a2d4b15-2-1','46d3313f4a2d4b15',2,1,'main',NULL,NULL,'translate-french/post/1','["house"]','steered','unsteered',13371930729264,'voted',NULL,'bbca593e59ec7a8768500a029dc1f186','2026-01-01T00:00:00.000000+00:00');
CREATE TABLE turn(
  turn_id INTEGER PRIMARY KEY, trial_id TEXT NOT NULL REFERENCES trial ON DELETE CASCADE,
  k INTEGER NOT NULL, user_text TEXT NOT NULL, UNIQUE(trial_id, k));
INSERT INTO "turn" VALUES(1,'5ce72b8adae021d3-1-1',1,'He wrote a long letter to his aunt.');
INSERT INTO "turn" VALUES(2,'46d3313f4a2d4b15-1-1',1,'He wrote a long letter to his aunt.');
INSERT INTO "turn" VALUES(3,'46d3313f4a2d4b15-2-1',1,'The old house by the river is empty.');
CREATE TABLE vote(
  vote_id TEXT PRIMARY KEY, trial_id TEXT NOT NULL REFERENCES trial, revision INTEGER NOT NULL,
  choice TEXT NOT NULL CHECK(choice IN ('L', 'R', 'tie', 'both_bad', 'skip')), strength INTEGER,
  reason TEXT, shown_ms INTEGER, decided_ms INTEGER, server_at TEXT NOT NULL,
  UNIQUE(trial_id, revision));
INSERT INTO "vote" VALUES('b6bd8639e8b5291a07acefe09bcdc319','46d3313f4a2d4b15-1-1',1,'L',NULL,NULL,NULL,NULL,'2026-01-01T00:00:00.000000+00:00');
INSERT INTO "vote" VALUES('bbca593e59ec7a8768500a029dc1f186','46d3313f4a2d4b15-2-1',1,'L',NULL,NULL,NULL,NULL,'2026-01-01T00:00:00.000000+00:00');
CREATE TABLE withdrawal(
  participant_id TEXT NOT NULL REFERENCES participant,
  scope TEXT NOT NULL CHECK(scope IN ('analysis', 'erase')), at TEXT NOT NULL, actor TEXT NOT NULL,
  PRIMARY KEY(participant_id, scope));
INSERT INTO "withdrawal" VALUES('fa4f7303c2f3570d','erase','2026-01-01T00:00:00.000000+00:00','participant');
CREATE UNIQUE INDEX one_attempt_counts ON trial(participant_id, position) WHERE state <> 'void';
CREATE UNIQUE INDEX one_trial_at_a_time ON trial(participant_id)
  WHERE state IN ('running', 'ready');
CREATE INDEX outbox_waiting ON outbox(seq) WHERE acked_at IS NULL;
CREATE INDEX outbox_of ON outbox(participant_id);
CREATE INDEX event_of ON event(participant_id);
CREATE INDEX free_places ON cell_pool(version_id, block, place) WHERE state = 'free';
CREATE TRIGGER vote_is_never_changed BEFORE UPDATE ON vote BEGIN SELECT RAISE(ABORT, 'a row of vote is never changed'); END;
CREATE TRIGGER vote_is_never_deleted BEFORE DELETE ON vote WHEN NOT EXISTS(SELECT 1 FROM erasing WHERE participant_id = (SELECT participant_id FROM trial WHERE trial_id = OLD.trial_id)) BEGIN SELECT RAISE(ABORT, 'a row of vote is only deleted by an erasure'); END;
CREATE TRIGGER response_is_never_changed BEFORE UPDATE ON response BEGIN SELECT RAISE(ABORT, 'a row of response is never changed'); END;
CREATE TRIGGER response_is_never_deleted BEFORE DELETE ON response WHEN NOT EXISTS(SELECT 1 FROM erasing WHERE participant_id = (SELECT OLD.participant_id)) BEGIN SELECT RAISE(ABORT, 'a row of response is only deleted by an erasure'); END;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'a row of audit is never changed'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit  BEGIN SELECT RAISE(ABORT, 'a row of audit is only deleted by an erasure'); END;
CREATE VIEW last_vote AS
  SELECT vote.* FROM vote JOIN (
    SELECT trial_id, MAX(revision) AS revision FROM vote GROUP BY trial_id
  ) USING(trial_id, revision);
COMMIT;
PRAGMA user_version = 1;
