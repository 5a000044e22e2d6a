//! How the HTTP side talks to the task that owns the `Node`.

use quorate_core::{NodeView, Reply, Request, RequestError};
use tokio::sync::{mpsc, oneshot};

/// What the node's task is asked.
#[derive(Debug)]
pub enum Command {
    /// A client's request.
    Request {
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Reply, RequestError>>,
    },
    /// The node's view of itself.
    View {
        /// Where the view goes.
        answer: oneshot::Sender<Box<NodeView>>,
    },
}

/// A cheap, clonable way to the node's task.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    commands: mpsc::Sender<Command>,
}

impl NodeHandle {
    /// A handle and the queue that it feeds, which holds at most `commands_max`.
    pub fn channel(commands_max: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(commands_max);
        (Self { commands }, queue)
    }

    /// Asks the node and waits for its answer.
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let gone = || RequestError::Stopped("the node's task has ended".into());
        let (answer, reply) = oneshot::channel();
        let command = Command::Request { request, answer };
        self.commands.send(command).await.map_err(|_| gone())?;
        reply.await.map_err(|_| gone())?
    }

    /// The node's view of itself; `None` once its task has ended.
    pub async fn view(&self) -> Option<Box<NodeView>> {
        let (answer, view) = oneshot::channel();
        self.commands.send(Command::View { answer }).await.ok()?;
        view.await.ok()
    }
}
