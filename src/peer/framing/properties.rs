//! Properties of chains and codecs, with random messages, chains and cuts.

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use crate::peer::framing::{Chain, Chunk, CodecSpec, Direction, FramingError, FramingLimits, InterceptorSpec};

    const FRAMINGS: [&str; 5] = [
        r#""length-prefixed""#,
        r#"{"name":"length-prefixed","width":2}"#,
        r#"{"name":"length-prefixed","width":8}"#,
        r#""textual-length-prefixed""#,
        r#"{"name":"length-prefixed","width":4}"#,
    ];
    const PER_CHUNK: [&str; 4] = [r#""gzip""#, r#""zstd""#, r#""base64""#, r#""ingest-ns""#];
    const JOINING: [&str; 3] = [
        r#"{"name":"chunk","max_bytes":40}"#,
        r#"{"name":"gzip","mode":"streaming","level":1}"#,
        r#"{"name":"zstd","mode":"streaming"}"#,
    ];

    fn chain(specs: &[InterceptorSpec], direction: Direction) -> Chain {
        Chain::new(specs, direction, &FramingLimits::default()).unwrap()
    }

    fn specs(texts: &[&str]) -> Vec<InterceptorSpec> {
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// Sends messages, and returns the bytes on the connection.
    fn send(specs: &[InterceptorSpec], messages: &[Vec<u8>]) -> Vec<u8> {
        let mut chain = chain(specs, Direction::Outgoing);
        let mut out = Vec::new();
        for message in messages {
            chain.process(Chunk::new(message.clone(), 77), &mut out).unwrap();
        }
        chain.finish(&mut out).unwrap();
        out.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect()
    }

    /// Cuts bytes at random places. Some pieces are empty.
    fn cut(bytes: &[u8], cuts: &[Index]) -> Vec<Vec<u8>> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let mut start = 0;
        let mut piece = |end| {
            let piece = bytes[start..end].to_vec();
            start = end;
            piece
        };
        ends.into_iter().map(&mut piece).collect()
    }

    /// Receives pieces, and returns the messages.
    fn receive(reversed: &[InterceptorSpec], pieces: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, FramingError> {
        let specs: Vec<InterceptorSpec> = reversed.iter().rev().cloned().collect();
        let mut chain = chain(&specs, Direction::Incoming);
        let mut out = Vec::new();
        for piece in pieces {
            chain.process(Chunk::new(piece.clone(), 5), &mut out)?;
        }
        chain.finish(&mut out)?;
        Ok(out.iter().map(|chunk| chunk.bytes.to_vec()).collect())
    }

    fn single_bytes(bytes: &[u8]) -> Vec<Vec<u8>> {
        bytes.iter().map(|byte| vec![*byte]).collect()
    }

    /// Returns a chain that gives messages back through a connection that cuts them anywhere.
    ///
    /// What works on each chunk needs a framing behind it; what joins chunks needs one before it.
    fn any_chain() -> impl Strategy<Value = Vec<InterceptorSpec>> {
        let step = (0..3_usize, any::<Index>(), 0..FRAMINGS.len());
        prop::collection::vec(step, 0..5).prop_map(|steps| {
            let (mut texts, mut framed) = (Vec::new(), false);
            for (kind, which, framing) in steps {
                if kind == 0 && !framed {
                    texts.push(FRAMINGS[framing]);
                }
                match kind {
                    0 | 2 if kind == 0 || framed => {
                        texts.push(JOINING[which.index(JOINING.len())]);
                        framed = true;
                    }
                    _ => {
                        texts.push(PER_CHUNK[which.index(PER_CHUNK.len())]);
                        framed = false;
                    }
                }
            }
            if !framed {
                texts.push(FRAMINGS[texts.len() % FRAMINGS.len()]);
            }
            specs(&texts)
        })
    }

    fn any_messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12)
    }

    fn any_cuts() -> impl Strategy<Value = Vec<Index>> {
        prop::collection::vec(any::<Index>(), 0..30)
    }

    proptest! {
        #[test]
        fn a_random_chain_gives_the_messages_back(
            specs in any_chain(),
            messages in any_messages(),
            cuts in any_cuts(),
        ) {
            let sent = send(&specs, &messages);
            prop_assert_eq!(&receive(&specs, &cut(&sent, &cuts)).unwrap(), &messages);
            prop_assert_eq!(&receive(&specs, &single_bytes(&sent)).unwrap(), &messages);
        }

        #[test]
        fn every_framing_gives_the_messages_back(
            messages in any_messages(),
            cuts in any_cuts(),
            which in 0..FRAMINGS.len(),
        ) {
            let specs = specs(&[FRAMINGS[which]]);
            let sent = send(&specs, &messages);
            prop_assert_eq!(receive(&specs, &cut(&sent, &cuts)).unwrap(), messages);
        }

        #[test]
        fn every_other_interceptor_gives_each_chunk_back(messages in any_messages(), which in 0..PER_CHUNK.len()) {
            let specs = specs(&[PER_CHUNK[which]]);
            let mut outgoing = chain(&specs, Direction::Outgoing);
            let mut incoming = chain(&specs, Direction::Incoming);
            let (mut sent, mut got) = (Vec::new(), Vec::new());
            for message in &messages {
                outgoing.process(Chunk::new(message.clone(), 9), &mut sent).unwrap();
            }
            for chunk in sent {
                incoming.process(chunk, &mut got).unwrap();
            }
            prop_assert_eq!(got, messages.iter().map(|bytes| Chunk::new(bytes.clone(), 9)).collect::<Vec<_>>());
        }

        #[test]
        fn separators_give_the_messages_back(
            messages in prop::collection::vec("[ab|;é]{0,12}", 0..12),
            separator in "[|;é]{1,4}|\n|\r\n|\0",
            cuts in any_cuts(),
        ) {
            let spec = InterceptorSpec::named("separate").unwrap().with("separator", separator.as_str()).unwrap();
            let mut outgoing = chain(std::slice::from_ref(&spec), Direction::Outgoing);
            let mut out = Vec::new();
            let mut kept = Vec::new();
            for message in messages {
                if outgoing.process(Chunk::new(message.clone(), 0), &mut out).is_ok() {
                    kept.push(message.into_bytes());
                }
            }
            let sent: Vec<u8> = out.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
            prop_assert_eq!(receive(&[spec], &cut(&sent, &cuts)).unwrap(), kept);
        }

        #[test]
        fn splitting_does_not_depend_on_the_cuts(
            bytes in prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..80),
            separator in "[ab\r\n]{1,3}",
            cuts in any_cuts(),
        ) {
            let separate = InterceptorSpec::named("separate").unwrap().with("separator", separator.as_str()).unwrap();
            for spec in [separate, InterceptorSpec::named("lines").unwrap()] {
                let whole = feed(&spec, std::slice::from_ref(&bytes));
                prop_assert_eq!(&feed(&spec, &cut(&bytes, &cuts)), &whole);
                prop_assert_eq!(&feed(&spec, &single_bytes(&bytes)), &whole);
            }
        }

        #[test]
        fn streams_that_take_turns_never_mix(
            specs in any_chain(),
            one in any_messages(),
            other in any_messages(),
            cuts in any_cuts(),
        ) {
            let reversed: Vec<InterceptorSpec> = specs.iter().rev().cloned().collect();
            let mut streams: Vec<_> = [one, other].into_iter().map(|messages| {
                let pieces = cut(&send(&specs, &messages), &cuts);
                (chain(&reversed, Direction::Incoming), pieces.into_iter(), Vec::new(), messages)
            }).collect();
            loop {
                let mut idle = true;
                for (chain, pieces, out, _) in &mut streams {
                    if let Some(piece) = pieces.next() {
                        chain.process(Chunk::new(piece, 0), out).unwrap();
                        idle = false;
                    }
                }
                if idle {
                    break;
                }
            }
            for (mut chain, _, mut out, messages) in streams {
                chain.finish(&mut out).unwrap();
                prop_assert_eq!(out.iter().map(|chunk| chunk.bytes.to_vec()).collect::<Vec<_>>(), messages);
            }
        }

        #[test]
        fn a_stream_that_is_cut_off_is_never_silent(
            messages in any_messages(),
            framing in 0..FRAMINGS.len(),
            cut in any::<Index>(),
        ) {
            let specs = specs(&[FRAMINGS[framing]]);
            let sent = send(&specs, &messages);
            let kept = cut.index(sent.len() + 1);
            match receive(&specs, &[sent[..kept].to_vec()]) {
                Ok(got) => prop_assert_eq!(send(&specs, &got).len(), kept, "whole frames, and nothing more"),
                Err(error) => prop_assert!(error.ends_stream(), "{}", error),
            }
        }

        #[test]
        fn random_bytes_never_panic(pieces in any_messages(), which in any::<Index>(), codec in 0..6_usize) {
            let all = [&FRAMINGS[..], &PER_CHUNK, &JOINING, &[r#""lines""#, r#""remove-empty""#]].concat();
            let mut chain = chain(&specs(&[all[which.index(all.len())]]), Direction::Incoming);
            let name = ["binary", "cloudevents", "csv", "json", "msgpack", "string"][codec];
            let mut codec = CodecSpec::named(name).unwrap().build(&FramingLimits::default());
            let mut out = Vec::new();
            for piece in pieces {
                let _ = chain.process(Chunk::new(piece, 0), &mut out);
            }
            let _ = chain.finish(&mut out);
            for chunk in out {
                let mut values = Vec::new();
                if codec.decode(chunk.clone(), &mut values).is_ok() && name != "csv" {
                    let mut again = Vec::new();
                    for decoded in &values {
                        codec.encode(&decoded.value, &mut again).unwrap();
                    }
                }
            }
        }

        #[test]
        fn json_goes_through_the_codecs_that_have_all_of_it(value in any_json()) {
            let text = serde_json::to_vec(&value).unwrap();
            for spec in [r#""json""#, r#"{"name":"json","mode":"sorted"}"#, r#""msgpack""#] {
                let mut codec = serde_json::from_str::<CodecSpec>(spec).unwrap().build(&FramingLimits::default());
                let (mut messages, mut values) = (Vec::new(), Vec::new());
                codec.encode(&text, &mut messages).unwrap();
                codec.decode(Chunk::new(messages.remove(0), 0), &mut values).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<serde_json::Value>(&values[0].value).unwrap(), &value);
            }
        }

        #[test]
        fn records_go_through_csv(
            records in prop::collection::vec(prop::collection::vec("[a,;\"\n\r \0é]{0,6}", 1..5), 0..6),
            separator in "[,;\t]",
        ) {
            let spec = CodecSpec::named("csv").unwrap().with("separator", separator).unwrap();
            let mut codec = spec.build(&FramingLimits::default());
            let (mut messages, mut values) = (Vec::new(), Vec::new());
            for record in &records {
                codec.encode(&serde_json::to_vec(record).unwrap(), &mut messages).unwrap();
            }
            let glued = messages.join(&b"\r\n"[..]);
            codec.decode(Chunk::new(glued, 0), &mut values).unwrap();
            let got: Vec<Vec<String>> = values.iter().map(|one| serde_json::from_slice(&one.value).unwrap()).collect();
            prop_assert_eq!(got, records);
        }
    }

    /// Returns the messages of an interceptor with small limits, and the number of its errors.
    fn feed(spec: &InterceptorSpec, pieces: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let limits = FramingLimits { max_line_bytes: 3, ..FramingLimits::default() };
        let mut chain = Chain::new(std::slice::from_ref(spec), Direction::Incoming, &limits).unwrap();
        let (mut out, mut errors) = (Vec::new(), 0);
        for piece in pieces {
            errors += chain.process(Chunk::new(piece.clone(), 0), &mut out).err().map_or(0, |error| error.count());
        }
        errors += chain.finish(&mut out).err().map_or(0, |error| error.count());
        (out.iter().map(|chunk| chunk.bytes.to_vec()).collect(), errors)
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            prop::num::f64::NORMAL.prop_map(Into::into),
            "\\PC{0,6}|[\0\"\\\\\n]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"\\\\é]{0,3}", inner, 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn run(texts: &[&str], limits: &FramingLimits, bytes: &[u8]) -> (Vec<Chunk>, Result<(), FramingError>, Chain) {
        let mut chain = Chain::new(&specs(texts), Direction::Incoming, limits).unwrap();
        let mut out = Vec::new();
        let result = chain.process(Chunk::new(bytes.to_vec(), 0), &mut out);
        (out, result, chain)
    }

    #[test]
    fn two_streams_of_lines_never_mix_and_their_ends_flush_the_rests() {
        let specs = specs(&[r#""lines""#]);
        let mut streams = [chain(&specs, Direction::Incoming), chain(&specs, Direction::Incoming)];
        let mut out = [Vec::new(), Vec::new()];
        for (stream, bytes) in [(0, "a1\na"), (1, "b1"), (0, "2\r"), (1, "\nb2\nb"), (0, "\na3"), (1, "3")] {
            streams[stream].process(Chunk::new(bytes, 0), &mut out[stream]).unwrap();
        }
        for (stream, out) in streams.iter_mut().zip(&mut out) {
            stream.finish(out).unwrap();
        }
        let expected = [["a1", "a2", "a3"], ["b1", "b2", "b3"]];
        assert_eq!(out, expected.map(|lines| lines.map(|line| Chunk::new(line, 0)).to_vec()));
    }

    #[test]
    fn a_bad_message_is_one_error_and_the_stream_lives() {
        let (out, result, mut chain) = run(
            &[r#""lines""#, r#""base64""#, r#""zstd""#],
            &FramingLimits::default(),
            b"KLUv/SACEQAAaGk=\n%%%\nKLUv/SACEQAAaGk=\nKLUv",
        );
        let error = result.unwrap_err();
        assert_eq!((out.len(), error.count(), error.ends_stream()), (2, 1, false));
        let mut next = Vec::new();
        chain.process(Chunk::new("/SACEQAAaGk=\n", 0), &mut next).unwrap();
        assert_eq!(next, [Chunk::new("hi", 0)]);
    }

    #[test]
    fn an_error_before_an_interceptor_that_joins_ends_the_stream_and_drops_its_rest() {
        let limits = FramingLimits::default();
        let (out, result, mut chain) = run(
            &[r#""lines""#, r#""base64""#, r#"{"name":"separate","separator":"|"}"#],
            &limits,
            b"YXxi\n***\nY3xk\n",
        );
        let error = result.unwrap_err();
        assert!(error.ends_stream() && matches!(error, FramingError::Gap { part: "separate", .. }), "{error}");
        assert_eq!(out.first(), Some(&Chunk::new("a", 0)));
        let mut rest = Vec::new();
        chain.finish(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert!(matches!(chain.process(Chunk::new("x", 0), &mut rest), Err(FramingError::Ended)));
    }

    #[test]
    fn half_a_frame_at_the_end_does_not_complete_the_line_behind_it() {
        let (out, result, mut chain) =
            run(&[r#""length-prefixed""#, r#""lines""#], &FramingLimits::default(), b"\0\0\0\x04a\nbc\0\0\0\x02d");
        result.unwrap();
        assert_eq!(out, [Chunk::new("a", 0)]);
        let mut rest = Vec::new();
        assert!(matches!(chain.finish(&mut rest), Err(FramingError::Gap { .. } | FramingError::Incomplete { .. })));
        assert!(rest.is_empty(), "`bc` is half a line");
    }

    #[test]
    fn many_small_bombs_in_one_chunk_are_stopped_together() {
        let limits =
            FramingLimits { max_output_bytes: 1 << 20, max_decompressed_bytes: 1 << 20, ..FramingLimits::default() };
        let bomb = vec![0; 600 << 10];
        let sent = send(&specs(&[r#""gzip""#, r#""length-prefixed""#]), &vec![bomb; 100]);
        let (out, result, mut chain) = run(&[r#""length-prefixed""#, r#""gzip""#], &limits, &sent);
        let error = result.unwrap_err();
        assert_eq!((out.len(), error.count(), error.ends_stream()), (1, 1, false));
        assert!(error.to_string().contains("max_output_bytes"), "{error}");
        let mut out = Vec::new();
        let good = send(&specs(&[r#""gzip""#, r#""length-prefixed""#]), &[b"good".to_vec()]);
        chain.process(Chunk::new(good, 0), &mut out).unwrap();
        assert_eq!(out, [Chunk::new("good", 0)]);
    }

    #[test]
    fn a_chain_without_interceptors_passes_chunks_on() {
        let (out, result, mut chain) = run(&[], &FramingLimits::default(), b"\0");
        result.unwrap();
        assert!(chain.is_empty());
        chain.finish(&mut Vec::new()).unwrap();
        assert_eq!(out, [Chunk::new("\0", 0)]);
    }
}
