-- The projection of the journal. Append-only: no updates, no upserts, no secondary indexes.
CREATE TABLE event (seq BIGINT, segment VARCHAR, pos BIGINT, ts VARCHAR, actor VARCHAR, kind VARCHAR, subject VARCHAR,
                    body JSON, prev VARCHAR, hash VARCHAR, v INTEGER, sig JSON, leaf BLOB);
-- One row a batch and segment: up to which byte and record it was ingested, and the hash of that record.
CREATE TABLE seg_offset (segment VARCHAR, upto BIGINT, records BIGINT, hash VARCHAR, seq BIGINT);
-- One row a batch: size and full subtrees of the RFC 6962 tree (largest first, 32 bytes each), bytes of order.log.
CREATE TABLE tree (size BIGINT, frontier BLOB, ordered BIGINT);
CREATE TABLE asset (id VARCHAR, kind VARCHAR, name VARCHAR, number INTEGER, owner VARCHAR, created VARCHAR, body JSON,
                    seq BIGINT);
-- The keys are hashes of the ids (`registry/projection.py`): what is walked compares these, and the ids at the end.
CREATE TABLE edge (child VARCHAR, relation VARCHAR, parent VARCHAR, seq BIGINT, child_key BIGINT, parent_key BIGINT);
CREATE TABLE alias_history (alias VARCHAR, certificate VARCHAR, candidate VARCHAR, version VARCHAR, actor VARCHAR,
                            ts VARCHAR, reason VARCHAR, release VARCHAR, seq BIGINT, release_key BIGINT,
                            certificate_key BIGINT);
CREATE TABLE approval (candidate VARCHAR, decision VARCHAR, principal VARCHAR, keyid VARCHAR, ts VARCHAR, reason VARCHAR,
                       envelope JSON, seq BIGINT);
CREATE TABLE gate_kpi (decision VARCHAR, kpi VARCHAR, rule VARCHAR, verdict VARCHAR, estimate DOUBLE, lower DOUBLE,
                       upper DOUBLE, n BIGINT, clusters BIGINT, detail JSON, seq BIGINT);
CREATE TABLE sample_result (eval_run VARCHAR, sample_id VARCHAR, kpi VARCHAR, epoch INTEGER, value DOUBLE, weight DOUBLE,
                            cluster VARCHAR, error VARCHAR, detail VARCHAR, slices VARCHAR, output VARCHAR,
                            latency_ms DOUBLE, prompt_tokens BIGINT, completion_tokens BIGINT, scorer VARCHAR);
-- One row a look of a gate at one KPI against one opponent: what of the hold-out's alpha was used, on whom, for what.
CREATE TABLE look (test VARCHAR, candidate VARCHAR, opponent VARCHAR, against VARCHAR, suite VARCHAR, kpi VARCHAR,
                   slice VARCHAR, instrument VARCHAR, plan VARCHAR, number INTEGER, samples BIGINT, clusters BIGINT, fraction DOUBLE,
                   level DOUBLE, p_pass DOUBLE, p_fail DOUBLE, verdict VARCHAR, actor VARCHAR, ts VARCHAR, seq BIGINT);
CREATE TABLE gateway_decision (ts VARCHAR, endpoint VARCHAR, request_id VARCHAR, principal VARCHAR, groups VARCHAR,
                               model VARCHAR, candidate VARCHAR, certificate VARCHAR, bundle VARCHAR, action VARCHAR,
                               rules JSON, status INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
                               input_chars INTEGER, output_chars INTEGER, latency_ms DOUBLE, finish_reason VARCHAR,
                               input_hash VARCHAR, output_hash VARCHAR, determinism VARCHAR, signals JSON, seq BIGINT);
CREATE VIEW alias_current AS
  SELECT alias, arg_max(certificate, seq) AS certificate, arg_max(candidate, seq) AS candidate,
         arg_max(version, seq) AS version, max(seq) AS seq
  FROM alias_history GROUP BY alias;
